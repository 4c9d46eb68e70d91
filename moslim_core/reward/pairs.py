"""Which of two answers is better, by each head: accuracy on chosen/rejected pairs, the way reward models are compared. (ours)"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moslim_core.data.bad_rows import shown
from moslim_core.data.row_formats import choice_of
from moslim_core.data.rows import plain_text, prompt_key
from moslim_core.data.tables import read_table
from moslim_core.errors import UserError
from moslim_core.preferences import PreferenceSchema
from moslim_core.reward.metrics import PairAccuracy, expected_scores
from moslim_core.reward.scorer import RewardScorer
from moslim_core.statistics.bootstrap import interval, resamples

ALL = "all heads"
RESAMPLES = 1000


class Pair(NamedTuple):
    """`preference` is the one that the choice is about; None where the data does not say."""

    question: str
    chosen: str
    rejected: str
    preference: str | None


def read_pairs(path: Path, schema: PreferenceSchema, preference: str | None = None) -> Iterator[Pair]:
    """Pairs of a table with prompt, chosen, rejected and optionally preference; `preference` chooses for all rows.

    Answers are text, or a conversation whose last message is the answer. Raises UserError naming row and remedy.
    """
    if preference is not None:
        schema[preference]
    for number, row in read_table(path):
        place = f"{path}, row {number}"
        question, chosen, rejected = choice_of(row, "prompt", place)
        about = preference or row.get("preference") or None
        if about is not None and about not in schema.names:
            raise UserError(f"{place}: preference={shown(about)} is no head of this reward model.\nIt has: {', '.join(schema.names)}.")
        yield Pair(plain_text(question), chosen, rejected, about)


def pair_accuracy(scorer: RewardScorer, pairs: Iterable[Pair], seed: int = 0) -> dict[str, PairAccuracy]:
    """{head: its accuracy on the pairs about it}; pairs about nothing in particular count for every head.

    `all heads` is the mean score of the heads on the latter. Intervals: 95 %, bootstrap over prompts.
    """
    every = list(pairs)
    questions = [p.question for p in every]
    better, worse = (
        expected_scores(scorer(questions, [getattr(p, side) for p in every]), scorer.schema) for side in ("chosen", "rejected")
    )
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


def _accuracy(margins: np.ndarray, prompts: np.ndarray, seed: int) -> PairAccuracy:
    right = np.where(margins == 0, 0.5, margins > 0)
    accuracy = interval(lambda values: float(values.mean()), (right,), resamples(prompts, RESAMPLES, seed))
    return PairAccuracy(pairs=len(margins), ties=int((margins == 0).sum()), accuracy=accuracy)
