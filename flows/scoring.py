"""`moslim score`: JSON lines in, JSON lines out, through the one scorer."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from moslim_core.data.rows import conversation, plain_text, read_json_lines
from moslim_core.errors import UserError
from moslim_core.settings import MappingSettings


def score_rows(directory: Path, source: str, destination: str, prefer: str) -> None:
    """Add `scores` {preference: {probabilities, expected_level}} to each row, and `reward` where targets are given."""
    from moslim_core.reward.mapping import RewardMapping
    from moslim_core.reward.metrics import expected_level
    from moslim_core.reward.scorer import RewardScorer

    scorer = RewardScorer.load(directory)
    targets = scorer.schema.parse_targets(prefer)
    rows = list(_rows(source))
    questions = [plain_text(conversation(row["prompt"], place)) for row, place in rows]
    probabilities = scorer(questions, [row["response"] for row, _ in rows])
    expected = {name: expected_level(p) for name, p in probabilities.items()}
    # A row's reward must not depend on the rows beside it, so nothing is standardised here.
    mapping = RewardMapping(scorer.schema, MappingSettings(standardisation="none"))
    rewards: Any = mapping(probabilities, [targets] * len(rows)).rewards if targets and rows else []
    with _output(destination) as file:
        for index, (row, _) in enumerate(rows):
            scored: dict[str, Any] = {
                **row,
                "scores": {
                    name: {"probabilities": [round(float(v), 6) for v in p[index]], "expected_level": float(expected[name][index])}
                    for name, p in probabilities.items()
                },
            }
            if targets:
                scored["reward"] = float(rewards[index])
            file.write(json.dumps(scored, ensure_ascii=False) + "\n")


def _rows(source: str) -> Iterator[tuple[dict[str, Any], str]]:
    path = Path("/dev/stdin") if source == "-" else Path(source)
    for number, row in read_json_lines(path):
        place = f"{source}, row {number}"
        for column in ("prompt", "response"):
            if column not in row:
                raise UserError(f"{place}: column {column!r} is missing.\nEach row needs prompt and response.")
        if not isinstance(row["response"], str):
            raise UserError(f"{place}: response must be text.")
        yield row, place


@contextlib.contextmanager
def _output(destination: str) -> Iterator[TextIO]:
    if destination == "-":
        yield sys.stdout
        return
    path = Path(destination)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        yield file
    partial.rename(path)
