"""The notebooks of the documents, cell by cell, on tiny models. Not by default: `make notebooks`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"

pytestmark = [pytest.mark.notebooks, pytest.mark.timeout(900)]


def code_of(notebook: Path) -> list[str]:
    cells: list[dict[str, Any]] = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def work_dir(prepared: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: what the quick start has made, the comparison uses."""
    return prepared(tmp_path_factory.mktemp("notebooks") / "work")


@pytest.mark.parametrize("name", ["quick_start", "compare", "own_data"])
def test_every_cell_runs(name: str, work_dir: Path, profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    monkeypatch.setenv("MOSLIM_NOTEBOOK_PROFILE", str(profile))
    monkeypatch.setenv("MOSLIM_NOTEBOOK_WORK", str(work_dir))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    names: dict[str, Any] = {}
    for source in code_of(FOLDER / f"{name}.ipynb"):
        exec(compile(source, f"{name}.ipynb", "exec"), names)


def test_every_notebook_is_run_here() -> None:
    assert {file.stem for file in FOLDER.glob("*.ipynb")} == {"quick_start", "compare", "own_data"}
