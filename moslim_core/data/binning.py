"""Ratings become levels: by a table, by thresholds, by quantiles of the training ratings, or as they are (docs/method.md, section 1)."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Any, NamedTuple

import numpy as np

from moslim_core.errors import UserError
from moslim_core.settings import LabelColumn


class Binning(NamedTuple):
    """How one column's ratings become levels 1..k of one preference. With no way given, ratings are levels already."""

    preference: str
    column: str
    k: int
    levels: dict[str, int | None] | None = None
    thresholds: tuple[float, ...] | None = None
    quantiles: bool = False

    @classmethod
    def of(cls, preference: str, column: str, k: int, settings: LabelColumn) -> Binning:
        """Checked against the number of levels. Raises UserError."""
        if settings.thresholds is not None and len(settings.thresholds) != k - 1:
            given = len(settings.thresholds)
            raise UserError(
                f"data.columns.labels.{preference}.thresholds has {given} number{'' if given == 1 else 's'}, "
                f"the {k} levels of {preference} need {k - 1}.\nGive one number fewer than levels."
            )
        return cls(preference, column, k, settings.levels, settings.thresholds, settings.quantiles)

    def level(self, rating: Any, place: str) -> int | None:
        """The level of a rating that is not null; None where the table masks it. Raises UserError, naming `place`."""
        if self.thresholds is not None:
            return self.cut(self.number(rating, place))
        if self.levels is not None:
            key = str(int(rating)) if isinstance(rating, float) and rating.is_integer() else str(rating)
            if key not in self.levels:
                raise UserError(
                    f"{place}: {self.column}={rating!r} is not in the level mapping of {self.preference} ({', '.join(self.levels)}).\n"
                    f"Add it under data.columns.labels.{self.preference}.levels (null masks it), or mend the row."
                )
            rating = self.levels[key]
            if rating is None:
                return None
        whole = isinstance(rating, int | float) and not isinstance(rating, bool) and float(rating).is_integer()
        if not whole or not 1 <= rating <= self.k:
            raise UserError(
                f"{place}: {self.column}={rating!r} is no level of {self.preference} (1..{self.k}, or null).\n"
                f"Map ratings to levels under data.columns.labels.{self.preference}.levels, or mend the row."
            )
        return int(rating)

    def number(self, rating: Any, place: str) -> float:
        """A rating to be cut by thresholds. Raises UserError, naming `place`, unless it is a finite number."""
        if isinstance(rating, bool) or not isinstance(rating, int | float) or not math.isfinite(rating):
            raise UserError(
                f"{place}: {self.column}={rating!r} is no number, and thresholds cut {self.preference}.\n"
                "Write a number or null, or give a table of levels."
            )
        return float(rating)

    def cut(self, value: float) -> int:
        """1 + the number of thresholds below `value`: a value up to the first is level 1."""
        assert self.thresholds is not None
        return bisect_left(self.thresholds, value) + 1

    def recorded(self) -> dict[str, Any]:
        """For the data card: the column, and what makes its ratings levels."""
        if self.levels is not None:
            return {"column": self.column, "levels": self.levels}
        if self.thresholds is not None:
            return {"column": self.column, "quantiles": self.quantiles, "thresholds": list(self.thresholds)}
        return {"column": self.column}


def quantile_thresholds(ratings: np.ndarray, k: int) -> tuple[float, ...] | None:
    """k-1 rising values of `ratings` (n,) that cut them into k levels, each as near to n/k ratings as ties allow and none empty.

    None where there are fewer than k different values. Ours: plain quantiles of a five-point scale coincide, or leave a level empty.
    """
    values, counts = np.unique(ratings, return_counts=True)
    if len(values) < k:
        return None
    shares = np.cumsum(counts) / counts.sum()
    thresholds: list[float] = []
    first = 0
    for level in range(1, k):
        # Each level above this one keeps a value of its own.
        last = len(values) - (k - level)
        first += int(np.abs(shares[first:last] - level / k).argmin())
        thresholds.append(float(values[first]))
        first += 1
    return tuple(thresholds)
