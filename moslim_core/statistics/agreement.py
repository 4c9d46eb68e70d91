"""How far judges can be trusted: agreement of two on the same answers, and what sways one that should not.

Columns have one row per answer or pair. A judge's verdict that could not be read is NaN: it is counted as missing, never compared.
Intervals are over prompts, `prompts` naming each row's. (docs/method.md section 5)
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel

from moslim_core.statistics.bootstrap import Interval, interval, resamples

Array = np.ndarray


class JudgeAgreement(BaseModel):
    """Of two judges on the `compared` answers that both graded; `missing` were not graded by both."""

    compared: int
    missing: int
    exact: Interval
    cohen_kappa: Interval
    quadratic_kappa: Interval


class PositionBias(BaseModel):
    """Of a pairwise judge on the `compared` pairs that it judged in both orders. `first_wins` is 0.5 where order sways nothing."""

    compared: int
    missing: int
    consistent: Interval
    first_wins: Interval


class LengthBias(BaseModel):
    """Of a pairwise judge on the `decided` pairs: no tie, and answers of different length. `missing` were not judged."""

    decided: int
    missing: int
    longer_wins: Interval


def exact(first: Array, second: Array) -> float:
    """Share of rows that are equal; NaN without rows."""
    return float((first == second).mean()) if len(first) else float("nan")


def cohen_kappa(first: Array, second: Array) -> float:
    """Agreement beyond chance of two columns of levels (Cohen 1960); NaN where both only ever say one level."""
    chance = sum(float((first == level).mean() * (second == level).mean()) for level in np.union1d(first, second))
    return (exact(first, second) - chance) / (1 - chance) if chance < 1 else float("nan")


def quadratic_kappa(first: Array, second: Array) -> float:
    """Kappa that weighs a disagreement by its squared distance (Cohen 1968); NaN where both only ever say one level."""
    # E(x - y)^2 of independent x and y is var x + var y + (E x - E y)^2: no table of levels is needed.
    chance = float(first.var() + second.var() + (first.mean() - second.mean()) ** 2) if len(first) else 0.0
    return 1 - float(((first - second) ** 2).mean()) / chance if chance > 0 else float("nan")


def judge_agreement(first: Array, second: Array, prompts: Array, bootstrap: int, seed: int) -> JudgeAgreement:
    """Of two judges' levels (n,) of the same answers; expected levels are rounded to whole ones."""
    told = ~(np.isnan(first) | np.isnan(second))
    columns = np.rint(first[told]), np.rint(second[told])
    draws = resamples(prompts[told], bootstrap, seed)
    return JudgeAgreement(
        compared=int(told.sum()),
        missing=int((~told).sum()),
        exact=interval(exact, columns, draws),
        cohen_kappa=interval(cohen_kappa, columns, draws),
        quadratic_kappa=interval(quadratic_kappa, columns, draws),
    )


def position_bias(a_first: Array, b_first: Array, prompts: Array, bootstrap: int, seed: int) -> PositionBias:
    """Of verdicts (n,) on answers a and b, shown in one order and in the other: 1 where a wins, -1 where b does, 0 for a tie.

    `consistent` is the share of pairs with one verdict in both orders; `first_wins` the share of wins, of both orders, that went to
    the answer shown first (Zheng et al. 2023).
    """
    told = ~(np.isnan(a_first) | np.isnan(b_first))
    a_first, b_first, prompts = a_first[told], b_first[told], prompts[told]
    winner, shown_first = np.concatenate([a_first, b_first]), np.repeat([1, -1], len(a_first))
    won = winner != 0
    return PositionBias(
        compared=len(a_first),
        missing=int((~told).sum()),
        consistent=interval(exact, (a_first, b_first), resamples(prompts, bootstrap, seed)),
        first_wins=interval(exact, (winner[won], shown_first[won]), resamples(np.tile(prompts, 2)[won], bootstrap, seed)),
    )


def length_bias(verdicts: Array, lengths_a: Array, lengths_b: Array, prompts: Array, bootstrap: int, seed: int) -> LengthBias:
    """Share of decided pairs in which the longer answer wins; verdicts as in `position_bias`, lengths (n,) in any one unit.

    Longer answers may be better ones: a bias is what exceeds the share among people's verdicts, or a rule's, on the same pairs.
    """
    longer = np.sign(lengths_a - lengths_b)
    decided = ~np.isnan(verdicts) & (verdicts != 0) & (longer != 0)
    return LengthBias(
        decided=int(decided.sum()),
        missing=int(np.isnan(verdicts).sum()),
        longer_wins=interval(exact, (verdicts[decided], longer[decided]), resamples(prompts[decided], bootstrap, seed)),
    )


def length_correlation(grades: Array, lengths: Array, prompts: Array, bootstrap: int, seed: int) -> Interval:
    """Spearman correlation of grades of single answers with their lengths (n,), over the answers that have a grade."""
    told = ~np.isnan(grades)
    return interval(spearman, (grades[told], lengths[told]), resamples(prompts[told], bootstrap, seed))


def spearman(requested: Array, obtained: Array) -> float:
    """Rank correlation over answers, mid-ranks for ties; NaN where one side is constant."""
    from scipy.stats import rankdata

    return _correlation(rankdata(requested), rankdata(obtained)) if len(requested) > 2 else float("nan")


def _correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / norm) if norm > 0 else float("nan")
