from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moslim_core.data.prepare import prepare
from moslim_core.data.rows import write_json_lines
from moslim_core.settings import Settings
from moslim_core.training.progress import Progress
from tests.core.data.labelling import PREFERENCES


@pytest.fixture
def stage(tiny_chat: Path, tmp_path: Path) -> Any:
    """Write rows, run the stage with changed settings; gives its folder and its card."""

    def run(rows: Any, name: str = "out", **sections: Any) -> tuple[Path, dict[str, Any]]:
        files = rows if isinstance(rows, dict) else {"rows.jsonl": rows}
        folder = tmp_path / f"{name}-data"
        folder.mkdir(exist_ok=True)
        for file, values in files.items():
            write_json_lines(folder / file, values)
        path = folder if isinstance(rows, dict) else folder / "rows.jsonl"
        settings = Settings.model_validate(
            {
                "preferences": sections.get("preferences", PREFERENCES),
                "data": {"source": "jsonl", "path": path, **sections.get("data", {})},
                "model": {"base": str(tiny_chat)},
                "policy": sections.get("policy", {}),
                "evaluation": sections.get("evaluation", {}),
                "annotation": sections.get("annotation", {}),
            }
        )
        output = tmp_path / name
        return output, prepare(settings, output, tmp_path / "cache", Progress())

    return run
