"""Accuracy on chosen/rejected pairs: which head counts for which pair, ties, direction, and bad rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from moslim_core.errors import UserError
from moslim_core.preferences import PreferenceSchema
from moslim_core.reward.pairs import ALL, Pair, pair_accuracy, read_pairs
from moslim_core.reward.scorer import RewardScorer

SCHEMA = PreferenceSchema.model_validate(
    [{"name": "use", "levels": ["a", "b"]}, {"name": "noise", "levels": ["a", "b", "c"], "direction": "lower_is_better"}]
)


class Said:
    """A scorer that reads an answer as 'p(use=2) p(noise=3)'; the rest of the mass is on level 1."""

    schema = SCHEMA

    def __call__(self, questions: Sequence[str], answers: Sequence[str]) -> dict[str, np.ndarray]:
        values = np.array([[float(v) for v in a.split()] for a in answers])
        use, noise = values[:, 0], values[:, 1]
        return {"use": np.stack([1 - use, use], axis=1), "noise": np.stack([1 - noise, 0 * noise, noise], axis=1)}


SCORER = cast(RewardScorer, cast(Any, Said()))


def test_every_head_counts_its_pairs() -> None:
    found = pair_accuracy(
        SCORER,
        [
            Pair("q1", "0.9 0.1", "0.1 0.1", "use"),  # right for use
            Pair("q2", "0.2 0.1", "0.6 0.1", "use"),  # wrong
            Pair("q3", "0.5 0.3", "0.5 0.3", "use"),  # a tie: half
            Pair("q4", "0.0 0.2", "1.0 0.8", "noise"),  # less noise is better: right
        ],
    )
    assert {name: (f.pairs, f.ties, f.accuracy.value) for name, f in found.items()} == {"use": (3, 1, 0.5), "noise": (1, 0, 1.0)}
    assert found["use"].accuracy.low is None, "no interval from so few prompts"


def test_pairs_about_nothing_in_particular_count_for_all_and_for_their_mean() -> None:
    # use 0.2 better, noise 0.6 worse: the mean score is lower, so all heads together choose the rejected one.
    found = pair_accuracy(SCORER, [Pair("q", "0.7 0.9", "0.5 0.3", None)])
    assert {name: f.accuracy.value for name, f in found.items()} == {"use": 1.0, "noise": 0.0, ALL: 0.0}


def test_interval_is_over_prompts() -> None:
    pairs = [Pair(f"q{i % 10}", "0.9 0", "0.1 0", "use") for i in range(30)] + [Pair("q0", "0.1 0", "0.9 0", "use") for _ in range(10)]
    found = pair_accuracy(SCORER, pairs)["use"].accuracy
    assert found.value == 0.75
    # All wrong pairs belong to one prompt of ten: some resamples have none of it.
    assert found.high == 1.0 and found.low is not None and found.low < 0.6


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_reading(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "good"}]
    file = write(
        tmp_path / "pairs.jsonl",
        {"prompt": "Q", "chosen": "good", "rejected": "bad", "preference": "use"},
        {"prompt": messages[:1], "chosen": messages, "rejected": "bad"},
    )
    assert list(read_pairs(file, SCHEMA)) == [Pair("Q", "good", "bad", "use"), Pair("Q", "good", "bad", None)]
    assert [p.preference for p in read_pairs(file, SCHEMA, "noise")] == ["noise", "noise"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "Q", "chosen": "a"}, r"row 1: column 'rejected' is missing"),
        ({"prompt": "Q", "chosen": "a", "rejected": 3}, "row 1: column 'rejected' holds int, text is needed"),
        ({"prompt": "Q", "chosen": "a", "rejected": "b", "preference": "tone"}, "no head of this reward model.\nIt has: use, noise"),
    ],
)
def test_bad_rows(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        list(read_pairs(write(tmp_path / "pairs.jsonl", row), SCHEMA))


def test_unknown_preference(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tone"):
        list(read_pairs(write(tmp_path / "pairs.jsonl", {"prompt": "Q", "chosen": "a", "rejected": "b"}), SCHEMA, "tone"))
