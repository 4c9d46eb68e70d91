"""Rows that `moslim score` and `moslim reward pairs` are given: columns of their own, numbers that are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.cli.scoring import score_pairs, score_rows
from tests.odd import tiny_models as tiny
from tests.odd.case import Case

ROW = {"prompt": "How?", "response": "Good."}


def strict(text: str) -> Any:
    """JSON as every other reader reads it."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def score(row: str, prefer: str = "", name: str = "rows.jsonl") -> Callable[[Path], dict[str, Any]]:
    """The one row that comes out where `row` is in the file."""

    def act(folder: Path) -> dict[str, Any]:
        (folder / name).write_text(f"{row}\n")
        score_rows(tiny._reward(), str(folder / name), str(folder / "output"), prefer)
        (made,) = (folder / "output").read_text().splitlines()
        return strict(made)

    return act


def with_values(**values: Any) -> str:
    return json.dumps(ROW | values)


def kept(row: str, name: str = "rows.jsonl", **expected: Any) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        found = score(row, name=name)(folder)
        assert {key: found[key] for key in expected} == expected
        assert abs(sum(found["scores"]["warmth"]["probabilities"]) - 1) < 1e-4

    return act


def parquet_with_nan(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({**{k: [v] for k, v in ROW.items()}, "length": [float("nan")]}), folder / "rows.parquet")
    score_rows(tiny._reward(), str(folder / "rows.parquet"), str(folder / "output"), "")
    assert strict((folder / "output").read_text())["length"] is None


def few_pairs(folder: Path) -> None:
    (folder / "pairs.jsonl").write_text(json.dumps({"prompt": "Q", "chosen": "A", "rejected": "A", "margin": float("nan")}))
    score_pairs(tiny._reward(), folder / "pairs.jsonl", None, folder / "output")
    assert strict((folder / "output").read_text())["warmth"]["pairs"] == 1


CASES = [
    Case("a row that has scores of its own", score(with_values(scores=[1, 2])), "row 1: it has scores already"),
    Case("a row that has a reward of its own, and one is asked for", score(with_values(reward=0.5), "warmth=3"), "it has reward already"),
    Case("a row that has both of its own", score(with_values(reward=1, scores=None), "warmth=3"), "it has reward and scores already"),
    Case("a table that has scores of its own", score("prompt,response,scores\na,b,3", name="rows.csv"), "row 1: it has scores already"),
    Case("a row that has a reward of its own, and none is asked for", kept(with_values(reward=0.5), reward=0.5)),
    Case("a row with numbers that are none", kept(with_values(a=float("nan"), b=[float("-inf"), 1.5], c={"d": float("inf")}),
                                                  a=None, b=[None, 1.5], c={"d": None})),
    Case("a row with words for numbers that are none", kept("prompt,response,length\na,b,NaN", "rows.csv", length="NaN")),
    Case("a Parquet file with a number that is none", parquet_with_nan),
    Case("a pair too few for an interval", few_pairs),
]  # fmt: skip
