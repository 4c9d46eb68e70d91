"""95 % intervals by the bootstrap over prompts (percentile method)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import BaseModel

Array = np.ndarray

# Resamples of fewer prompts repeat each other: their spread says nothing, so there are no bounds.
MIN_PROMPTS = 8


class Interval(BaseModel):
    """A figure with its 95 % bounds; null where it is undefined (a constant, no rows, or for the bounds too few prompts)."""

    value: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.value is None:
            return "n/a"
        known = [x for x in (self.value, self.low, self.high) if x is not None]
        digits = 2 if max(map(abs, known)) >= 0.1 or not any(known) else 3
        bounds = "" if self.low is None or self.high is None else f" [{self.low:.{digits}f}, {self.high:.{digits}f}]"
        return f"{self.value:.{digits}f}{bounds}"


def finite(value: float) -> float | None:
    """The number, or None where it is not finite: JSON has no NaN."""
    return float(value) if np.isfinite(value) else None


def resamples(groups: Array, count: int, seed: int) -> list[Array]:
    """`count` arrays of row indices: prompts (values of `groups`, (n,)) drawn with replacement, with all their rows.

    None where there are fewer than 8 different prompts.
    """
    rng = np.random.default_rng(seed)
    names, inverse = np.unique(groups, return_inverse=True)
    if len(names) < MIN_PROMPTS:
        return []
    rows = [np.flatnonzero(inverse == g) for g in range(len(names))]
    return [np.concatenate([rows[g] for g in rng.integers(0, len(names), len(names))]) for _ in range(count)]


def interval(statistic: Callable[..., float], columns: tuple[Array, ...], draws: list[Array]) -> Interval:
    """`statistic(*columns)` on all rows (n, ...), and its 2.5 and 97.5 percentiles over the draws where it is defined.

    Bounds are null if fewer than half of the draws define the statistic: an interval of the rest would mislead.
    """
    value = finite(statistic(*columns))
    if value is None or not draws:
        return Interval(value=value, low=None, high=None)
    values: Any = np.array([statistic(*(c[d] for c in columns)) for d in draws], dtype=float)
    values = values[np.isfinite(values)]
    if len(values) < len(draws) / 2:
        return Interval(value=value, low=None, high=None)
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(value=value, low=float(low), high=float(high))
