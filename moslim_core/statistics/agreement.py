"""How far two judges agree on the same answers.

Columns have one row per answer. A judge's verdict that could not be read is NaN: it is counted as missing, never compared.
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


def exact(first: Array, second: Array) -> float:
    """Share of rows (n,) that are equal; NaN without rows."""
    return float((first == second).mean()) if len(first) else float("nan")


def cohen_kappa(first: Array, second: Array) -> float:
    """Agreement beyond chance of two columns (n,) of levels (Cohen 1960); NaN where both only ever say one level."""
    chance = sum(float((first == level).mean() * (second == level).mean()) for level in np.union1d(first, second))
    return (exact(first, second) - chance) / (1 - chance) if chance < 1 else float("nan")


def quadratic_kappa(first: Array, second: Array) -> float:
    """Kappa of levels (n,) that weighs a disagreement by its squared distance (Cohen 1968); NaN where both only ever say one level."""
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


def spearman(requested: Array, obtained: Array) -> float:
    """Rank correlation of levels (n,), mid-ranks for ties; NaN where one side is constant."""
    from scipy.stats import rankdata

    return _correlation(rankdata(requested), rankdata(obtained)) if len(requested) > 2 else float("nan")


def _correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / norm) if norm > 0 else float("nan")
