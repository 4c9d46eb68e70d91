"""Small benchmark files in the layout that is read, with texts made up for the tests; and the real ones, where they are."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from moslim_core.evaluation.benchmarks.sources import File
from moslim_core.policy.generation import Answer

REAL = Path(os.environ.get("MOSLIM_DATA_DIR", "/nowhere"))


def needs_real(*files: File) -> pytest.MarkDecorator:
    """Skips where MOSLIM_DATA_DIR does not hold these files."""
    missing = [file.name for file in files if not (REAL / file.name).is_file()]
    return pytest.mark.skipif(bool(missing), reason=f"MOSLIM_DATA_DIR names no folder with {', '.join(missing)} in it")


def write(folder: Path, file: File, rows: Sequence[dict[str, Any]]) -> Path:
    """A file in the format that its name has."""
    name, path = file.name, folder / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if name.endswith(".csv"):
        with path.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows))
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines)
    return folder


def said(*texts: str) -> list[Answer]:
    """Answers to one item's conversations."""
    return [Answer(text, tokens=len(text.split()), truncated=False) for text in texts]
