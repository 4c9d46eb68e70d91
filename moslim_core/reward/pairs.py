"""Which of two answers is better, by each head: accuracy on chosen/rejected pairs, the way reward models are compared. (ours)"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel

from moslim_core.data.rows import conversation, plain_text, prompt_key, read_json_lines
from moslim_core.errors import UserError
from moslim_core.evaluation.bootstrap import Interval, interval, resamples
from moslim_core.preferences import PreferenceSchema
from moslim_core.reward.metrics import expected_level
from moslim_core.reward.scorer import RewardScorer

ALL = "all heads"
RESAMPLES = 1000


class Pair(NamedTuple):
    """`preference` is the one that the choice is about; None where the data does not say."""

    question: str
    chosen: str
    rejected: str
    preference: str | None


class PairAccuracy(BaseModel):
    """Share of pairs whose chosen answer has the higher expected score; a tie counts half."""

    pairs: int
    ties: int
    accuracy: Interval


def read_pairs(path: Path, schema: PreferenceSchema, preference: str | None = None) -> Iterator[Pair]:
    """Pairs of a JSON lines file with prompt, chosen, rejected and optionally preference; `preference` chooses for all rows.

    Answers are text, or a conversation whose last message is the answer. Raises UserError naming row and remedy.
    """
    if preference is not None:
        schema[preference]
    for number, row in read_json_lines(path):
        place = f"{path}, row {number}"
        for column in ("prompt", "chosen", "rejected"):
            if column not in row:
                raise UserError(f"{place}: column {column!r} is missing.\nEach row needs prompt, chosen and rejected.")
        about = preference or row.get("preference")
        if about is not None and about not in schema.names:
            raise UserError(f"{place}: preference={about!r} is no head of this reward model.\nIt has: {', '.join(schema.names)}.")
        question = plain_text(conversation(row["prompt"], place))
        yield Pair(question, _answer(row["chosen"], place), _answer(row["rejected"], place), about)


def _answer(value: Any, place: str) -> str:
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        value = value[-1].get("content")
    if not isinstance(value, str):
        raise UserError(f"{place}: chosen and rejected must be text, or messages that end with the answer.")
    return value


def pair_accuracy(scorer: RewardScorer, pairs: Iterable[Pair], seed: int = 0) -> dict[str, PairAccuracy]:
    """{head: its accuracy on the pairs about it}; pairs about nothing in particular count for every head.

    `all heads` is the mean score of the heads on the latter. Intervals: 95 %, bootstrap over prompts.
    """
    every = list(pairs)
    questions = [p.question for p in every]
    better, worse = (_scores(scorer, questions, [getattr(p, side) for p in every]) for side in ("chosen", "rejected"))
    prompts = np.array([prompt_key([{"role": "user", "content": q}]) for q in questions])
    general = np.array([p.preference is None for p in every], dtype=bool)
    result = {}
    for index, name in enumerate(scorer.schema.names):
        about = general | np.array([p.preference == name for p in every], dtype=bool)
        if about.any():
            result[name] = _accuracy(better[about, index] - worse[about, index], prompts[about], seed)
    if general.any() and len(scorer.schema) > 1:
        result[ALL] = _accuracy((better - worse)[general].mean(axis=1), prompts[general], seed)
    return result


def _scores(scorer: RewardScorer, questions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """(n, m) expected scores in [0, 1], 1 being the better end of each preference."""
    probabilities = scorer(questions, answers)
    columns = [np.vectorize(p.score, otypes=[float])(expected_level(probabilities[p.name])) for p in scorer.schema.preferences]
    return np.stack(columns, axis=1)


def _accuracy(margins: np.ndarray, prompts: np.ndarray, seed: int) -> PairAccuracy:
    right = np.where(margins == 0, 0.5, margins > 0)
    found = interval(lambda values: float(values.mean()), (right,), resamples(prompts, RESAMPLES, seed))
    return PairAccuracy(pairs=len(margins), ties=int((margins == 0).sum()), accuracy=found)
