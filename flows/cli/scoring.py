"""`moslim score` and `moslim reward pairs`: rows in, JSON lines out, through the one scorer, a chunk of rows at a time."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, cast

from rich.console import Console
from rich.table import Table

from moslim_core.data.row_formats import Shape, shape_of
from moslim_core.data.rows import plain_text
from moslim_core.data.settings import ColumnSettings
from moslim_core.data.tables import read_table
from moslim_core.errors import UserError
from moslim_core.json_text import writable
from moslim_core.reward.settings import MappingSettings

# Enough rows for batches of one length each, few enough that a file of any size fits into memory.
CHUNK_ROWS = 4096
# What is added to a row.
SCORES, REWARD = "scores", "reward"


def score_rows(directory: Path, source: str, destination: str, prefer: str) -> None:
    """Add `scores` {preference: {probabilities, expected_level}} to each row, and `reward` where targets are given.

    Numbers of a row that are none (NaN, infinite) become null.
    """
    from moslim_core.reward.mapping import RewardMapping
    from moslim_core.reward.scorer import RewardScorer

    scorer = RewardScorer.load(directory)
    targets = scorer.schema.parse_targets(prefer)
    # A row's reward must not depend on the rows beside it, so nothing is standardised here.
    mapping = RewardMapping(scorer.schema, MappingSettings(standardisation="none"))
    rows = _rows(source, {SCORES, *([REWARD] if targets else [])})
    with _output(destination) as file:
        while chunk := list(islice(rows, CHUNK_ROWS)):
            for scored in _scored(scorer, mapping, targets, chunk):
                # Where the terminal lacks a character, JSON has its own way to write it.
                file.write(json.dumps(writable(scored), ensure_ascii=(file.encoding or "utf-8").lower() != "utf-8", default=str) + "\n")


def _scored(scorer: Any, mapping: Any, targets: Any, chunk: list[tuple[dict[str, Any], Shape]]) -> Iterator[dict[str, Any]]:
    from moslim_core.reward.metrics import expected_level

    probabilities = scorer([plain_text(shape.prompt) for _, shape in chunk], [shape.response for _, shape in chunk])
    expected = {name: expected_level(p) for name, p in probabilities.items()}
    rewards = mapping(probabilities, [targets] * len(chunk)).rewards if targets else None
    for index, (row, _) in enumerate(chunk):
        scores = {
            name: {"probabilities": [round(float(v), 6) for v in p[index]], "expected_level": float(expected[name][index])}
            for name, p in probabilities.items()
        }
        yield {**row, SCORES: scores, **({} if rewards is None else {REWARD: float(rewards[index])})}


def score_pairs(directory: Path, source: Path, preference: str | None, output: Path | None) -> None:
    """Print, and write as JSON if asked to, how often each head prefers the chosen answer."""
    from moslim_core.reward.pairs import pair_accuracy, read_pairs
    from moslim_core.reward.scorer import RewardScorer

    scorer = RewardScorer.load(directory)
    pairs = list(read_pairs(source, scorer.schema, preference))
    if not pairs:
        raise UserError(f"{source}: the file has no pairs.\nGive one JSON object a line with prompt, chosen and rejected.")
    heads = pair_accuracy(scorer, pairs)
    table = Table(title="Chosen above rejected, by expected score (95 % interval)", title_justify="left")
    for heading in ("head", "pairs", "ties", "accuracy"):
        table.add_column(heading)
    for name, head in heads.items():
        table.add_row(name, str(head.pairs), str(head.ties), str(head.accuracy))
    Console().print(table)
    if output is not None:
        with _output(str(output)) as file:
            json.dump(writable({name: head.model_dump() for name, head in heads.items()}), file, indent=1)


def _rows(source: str, added: set[str]) -> Iterator[tuple[dict[str, Any], Shape]]:
    """(row, its prompt and answer) of a table, or of JSON on standard input; of a choice between two answers the better one.

    Raises UserError where a row has what is `added` to it: it would be lost.
    """
    count = 0
    for number, row in read_table(Path("/dev/stdin") if source == "-" else Path(source)):
        count += 1
        if taken := sorted(added & row.keys()):
            raise UserError(
                f"{source}, row {number}: it has {' and '.join(taken)} already, which `moslim score` adds.\n"
                "Rename what the rows have, or leave it out."
            )
        yield row, shape_of(row, ColumnSettings(), f"{source}, row {number}")
    if count == 0:
        raise UserError(f"{source}: the file has no rows.\nGive rows with prompt and response.")


@contextlib.contextmanager
def _output(destination: str) -> Iterator[TextIO]:
    """Standard output for '-', else a file that is there only once it is whole."""
    if destination == "-":
        yield sys.stdout
        return
    path, written = Path(destination), None
    if not path.name or os.path.isdir(path):
        raise UserError(f"--output {destination!r} is a folder.\nGive a file, or - for standard output.")
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".moslim-", delete=False) as file:
            written = Path(file.name)
            yield cast(TextIO, file)
        written.rename(path)
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror or error}).\nGive a file in a folder of yours.") from error
    finally:
        if written is not None:
            written.unlink(missing_ok=True)
