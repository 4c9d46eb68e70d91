"""The starter set: prompts written for this project, answers sampled from the packaged model, labels by rules.

`moslim data build-starter` draws raw answers (drawing.py), says how far each is on its question's topic (reward/topic.py), and selects
from them (selection.py). Raw answers and rows ship beside this file, so that a first run needs no sampling, and selection gives the same
rows on every machine. Drawing gives the same answers for the same seed on the same kind of CPU.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PROMPTS = HERE / "prompts.txt"
RAW = HERE / "raw.jsonl.gz"
ROWS = HERE / "rows.jsonl.gz"


def prompts() -> list[str]:
    """The prompts of the starter set, in the file's order."""
    return PROMPTS.read_text(encoding="utf-8").splitlines()


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file that `write` wrote."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def write(rows: Iterable[dict[str, Any]], path: Path) -> int:
    """Write rows as gzipped JSON lines, the same bytes for the same rows; returns their number."""
    unfinished = path.with_name(path.name + ".partial")
    count = 0
    with unfinished.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as file:
        for row in rows:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            count += 1
    unfinished.rename(path)
    return count
