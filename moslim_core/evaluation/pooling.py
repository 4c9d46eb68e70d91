"""Means over runs that answered the same prompts, with 95 % intervals over these prompts. (ours)

A prompt that is hard in one run may be hard in the others: they are no independent samples, so all answers to a prompt are drawn
together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from moslim_core.evaluation.controllability import (
    Obtained,
    exact_level,
    following,
    left_open,
    mae,
    scores_alone,
    span,
    spread,
    within_one_level,
)
from moslim_core.evaluation.fronts import FIGURES, Front, quality, score_table
from moslim_core.preferences import PreferenceSchema
from moslim_core.statistics.bootstrap import Interval, interval, resamples

Array = np.ndarray

CROSS_TALK = "left open/cross-talk"
# By how many preferences a request names.
TOGETHER = {2: "two at once", 3: "three at once"}


def control(runs: Sequence[Sequence[Obtained]], schema: PreferenceSchema, bootstrap: int) -> dict[str, Interval]:
    """`preference/spearman`, `/mae`, `/exact`, `/within_one`, `/span`, `/spread`, and `left open/cross-talk` of each run's answers, by
    `bootstrap` resamples."""
    intervals = {}
    for preference in schema.preferences:
        name = preference.name
        judged = [(run, row) for run, rows in enumerate(runs) for row in rows if name in row.targets and name in row.levels]
        requested = np.array([row.targets[name] for _, row in judged], dtype=float)
        obtained = np.array([row.levels[name] for _, row in judged], dtype=float)
        draws = resamples(np.array([row.prompt for _, row in judged], dtype=int), bootstrap, 0)
        columns = (np.array([run for run, _ in judged], dtype=int), requested, obtained)
        statistics: dict[str, Callable[[Array, Array], float]] = {
            "spearman": following,
            "mae": mae,
            "exact": exact_level,
            "within_one": within_one_level,
            "span": partial(span, low=preference.requestable[0], high=preference.requestable[-1]),
            "spread": spread,
        }
        for figure, statistic in statistics.items():
            intervals[f"{name}/{figure}"] = interval(_over_runs(statistic, len(runs)), columns, draws)
    rows = [row for of in runs for row in of]
    columns = (np.repeat(np.arange(len(runs)), [len(of) for of in runs]), *scores_alone(rows, schema))
    draws = resamples(np.array([row.prompt for row in rows], dtype=int), bootstrap, 0)
    return {**intervals, CROSS_TALK: interval(_over_runs(left_open, len(runs)), columns, draws)}


def joint(runs: Sequence[Sequence[Obtained]], schema: PreferenceSchema, bootstrap: int) -> dict[str, Interval]:
    """`two at once/spearman` and `three at once/spearman` of each run's answers to requests for so many preferences.

    The mean over the steered preferences of the Spearman correlation of requested and obtained levels, by `bootstrap` resamples.
    """
    names = [p.name for p in schema.preferences if not p.is_guard]
    intervals = {}
    for size, together in TOGETHER.items():
        told = [
            (run * len(names) + place, row.targets[name], row.levels[name], row.prompt)
            for run, rows in enumerate(runs)
            for row in rows
            for place, name in enumerate(names)
            if name in row.targets and name in row.levels and sum(of in row.targets for of in names) == size
        ]
        if told:
            which, requested, obtained, prompts = (np.array(column, dtype=float) for column in zip(*told, strict=True))
            draws = resamples(prompts.astype(int), bootstrap, 0)
            intervals[f"{together}/spearman"] = interval(_over_runs(following, len(runs) * len(names)), (which, requested, obtained), draws)
    return intervals


def _over_runs(statistic: Callable[[Array, Array], float], runs: int) -> Callable[[Array, Array, Array], float]:
    return lambda run, requested, obtained: float(np.mean([statistic(requested[run == n], obtained[run == n]) for n in range(runs)]))


def fronts(runs: Sequence[tuple[Front, Sequence[Sequence[Obtained]]]], schema: PreferenceSchema, bootstrap: int) -> dict[str, Interval]:
    """Of each run its front and the answers that it was made from, point by point: `front/` and the figures of a front."""
    scores = np.stack([np.stack([score_table(answers, schema) for answers in points], axis=1) for _, points in runs], axis=1)
    weights = np.array([list(point.weights.values()) for point in runs[0][0].points])
    references = [np.array(list(front.reference.values()), dtype=float) for front, _ in runs]
    draws = resamples(np.arange(len(scores)), bootstrap, 0)

    def mean(figure: str) -> Callable[[Array], float]:
        return lambda s: float(np.mean([quality(figure, s[:, n], weights, at) for n, at in enumerate(references)]))

    return {f"front/{figure}": interval(mean(figure), (scores,), draws) for figure in FIGURES}
