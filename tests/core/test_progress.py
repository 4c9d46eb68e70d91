"""Events for another process: one JSON object a line, no number that is none."""

from __future__ import annotations

import json
from pathlib import Path

from moslim_core.training.progress import Progress


def test_events(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    progress = Progress(path)
    progress.update("reading", 1, 2)
    Progress(path).metrics({"a": 1, "b": float("nan"), "c": float("inf"), "d": None}, step=3)  # type: ignore[dict-item]
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [{k: v for k, v in e.items() if k != "time"} for e in events] == [
        {"event": "progress", "phase": "reading", "done": 1, "total": 2},
        {"event": "metrics", "step": 3, "values": {"a": 1.0}},
    ]
    Progress().update("silent", 0, 0)


def test_half_a_line_of_an_earlier_attempt_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    Progress(path).update("reading", 1, 2)
    path.write_text(path.read_text() + '{"event": "prog')
    Progress(path).update("reading", 2, 2)
    assert [json.loads(line)["done"] for line in path.read_text().splitlines()] == [1, 2]
