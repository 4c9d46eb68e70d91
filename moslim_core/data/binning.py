"""Ratings become levels: by a table, by thresholds, by quantiles of the training ratings, or as they are (docs/method.md, section 1).

A rating may be a number, text that is one, `4/5` where 5 is the top of the scale, or a list of several raters'. A level may lie between
two whole ones.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from moslim_core.data.bad_rows import BadRow, shown
from moslim_core.data.settings import LabelColumn
from moslim_core.errors import UserError
from moslim_core.json_text import NotJSON, parse

# Keeps a level below the half above it, which would round up; a float32 can tell it from the half too.
MARGIN = 1e-4
# Sums and differences of larger ratings could leave what a float holds.
LARGEST = 1e100

# How tables of text write that there is no rating.
MISSING = frozenset({"", "nan", "na", "n/a", "null", "none", "-"})

_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_PLAIN, _OF = re.compile(_NUMBER + r"\Z"), re.compile(rf"({_NUMBER})\s*/\s*({_NUMBER})\Z")


class Binning(NamedTuple):
    """How one column's ratings become levels 1..k of one preference. With no way given, ratings are levels already."""

    preference: str
    column: str
    k: int
    levels: dict[str, int | None] | None = None
    thresholds: tuple[float, ...] | None = None
    quantiles: bool = False
    means: tuple[float, ...] | None = None

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

    @property
    def cuts(self) -> bool:
        """Whether thresholds make ratings levels: then the training ratings are measured first."""
        return self.quantiles or self.thresholds is not None

    def level(self, rating: Any, place: str) -> float | None:
        """The level of a rating that no threshold cuts, whole or between two; of a list of ratings the mean. None where it is missing or
        masked. Raises BadRow, naming `place`.
        """
        if isinstance(rating := self._read(rating), list):
            return _mean([self.level(self._single(each, place), place) for each in rating])
        if rating is None:
            return None
        if self.levels is not None:
            return self._looked_up(rating, place)
        value = as_number(rating, self.k)
        if value is None or not 1 <= value <= self.k:
            raise self._no_level(rating, place)
        return value

    def rating(self, rating: Any, place: str) -> float | None:
        """A rating that thresholds will cut; of a list of ratings the mean. Raises BadRow, naming `place`."""
        if isinstance(rating := self._read(rating), list):
            return _mean([self.rating(self._single(each, place), place) for each in rating])
        return None if rating is None else self.number(rating, place)

    def number(self, rating: Any, place: str) -> float:
        """A rating to be cut by thresholds. Raises BadRow, naming `place`, unless it is a finite number."""
        value = as_number(rating)
        if value is None:
            raise BadRow(
                place,
                f"{self.column} is no number",
                f"{self.column}={shown(rating)} is no number up to {LARGEST:g}, and thresholds cut {self.preference}",
                "Write a number or null, or give a table of levels.",
            )
        return value

    def measured(self, ratings: np.ndarray) -> Binning | None:
        """With thresholds, if they are to be quantiles, and the mean rating of each level, both of the training ratings (n,).

        None where these have fewer different values than there are levels to cut.
        """
        thresholds = quantile_thresholds(ratings, self.k) if self.quantiles else self.thresholds
        if thresholds is None:
            return None
        levels = np.searchsorted(thresholds, ratings)
        by_level = [ratings[levels == level] for level in range(self.k)]
        return self._replace(thresholds=thresholds, means=tuple(float(of.mean()) if len(of) else math.nan for of in by_level))

    def cut(self, value: float) -> float:
        """The level of a rating, whose nearest whole one is 1 + the number of thresholds below it: one up to the first is level 1.

        A rating between the mean ratings of two levels lies between these levels, as far as thresholds let it; so ratings of one value
        a level are whole. (ours)
        """
        assert self.thresholds is not None and self.means is not None
        level = bisect_left(self.thresholds, value) + 1
        mean = self.means[level - 1]
        side = level + 1 if value > mean else level - 1
        if value == mean or not 1 <= side <= self.k or math.isnan(mean + self.means[side - 1]):
            return float(level)
        share = (value - mean) / (self.means[side - 1] - mean)
        return min(level + share, level + 0.5 - MARGIN) if side > level else max(level - share, level - 0.5)

    def _read(self, rating: Any) -> Any:
        """A rating without blanks around it: None where there is none, a list where it is the text of one."""
        text = rating.strip() if isinstance(rating, str) else rating
        # A table's own words mean what it says: `none` may be a level.
        if is_missing(text) and str(text) not in (self.levels or ()):
            return None
        if isinstance(text, str) and text.startswith("["):
            try:
                return parse(text)
            except NotJSON:
                return text
        return text

    def _looked_up(self, rating: Any, place: str) -> float | None:
        """By the table; a rating between two whole ones of it lies between their levels, unless one of these is masked."""
        assert self.levels is not None
        keys = {number: key for key in self.levels if (number := as_number(key)) is not None}
        value = as_number(rating, max(keys, default=None))
        if str(rating) in self.levels:
            return self._of_table(str(rating), place)
        if value in keys:
            return self._of_table(keys[value], place)
        if value is None or value.is_integer() or not {math.floor(value), math.ceil(value)} <= keys.keys():
            raise BadRow(
                place,
                f"{self.column} is not in the level mapping",
                f"{self.column}={shown(rating)} is not in the level mapping of {self.preference} ({shown(', '.join(self.levels))})",
                f"Add it under data.columns.labels.{self.preference}.levels (null masks it), or mend the row.",
            )
        low, high = (self._of_table(keys[of(value)], place) for of in (math.floor, math.ceil))
        return None if low is None or high is None else low + (high - low) * (value - math.floor(value))

    def _of_table(self, key: str, place: str) -> float | None:
        assert self.levels is not None
        level = self.levels[key]
        if level is not None and not 1 <= level <= self.k:
            raise self._no_level(level, place)
        return level

    def _single(self, rating: Any, place: str) -> Any:
        """One of several ratings, which is no list itself."""
        if isinstance(rating, list):
            raise self._no_level(rating, place)
        return rating

    def _no_level(self, rating: Any, place: str) -> BadRow:
        return BadRow(
            place,
            f"{self.column} is no level",
            f"{self.column}={shown(rating)} is no level of {self.preference} (1..{self.k}, or null)",
            f"Map ratings to levels under data.columns.labels.{self.preference}.levels, or mend the row.",
        )

    def recorded(self) -> dict[str, Any]:
        """For the data card: the column, and what makes its ratings levels."""
        if self.levels is not None:
            return {"column": self.column, "levels": self.levels}
        if self.thresholds is not None:
            means = [None if math.isnan(mean) else round(mean, 6) for mean in self.means or ()]
            return {"column": self.column, "quantiles": self.quantiles, "thresholds": list(self.thresholds), "means": means}
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


def is_missing(rating: Any) -> bool:
    """Whether there is no rating: null, NaN, or text that says so."""
    if isinstance(rating, float):
        return math.isnan(rating)
    return rating is None or (isinstance(rating, str) and rating.strip().lower() in MISSING)


def as_number(rating: Any, top: float | None = None) -> float | None:
    """A number, or text that is one as people write it; 4/5 is 4 where the scale's `top` is 5. None for anything else."""
    if isinstance(rating, str):
        if (of := _OF.match(rating)) and top is not None and float(of[2]) == top:
            rating = of[1]
        # As spreadsheets and typesetters write a minus.
        rating = rating.replace("\N{MINUS SIGN}", "-")
        rating = float(rating) if _PLAIN.match(rating) else None
    if isinstance(rating, bool) or not isinstance(rating, int | float | Decimal):
        return None
    try:
        value = float(rating)
    except (OverflowError, ValueError):
        return None
    return value if abs(value) <= LARGEST else None


def _mean(levels: list[float | None]) -> float | None:
    known = [level for level in levels if level is not None]
    return sum(known) / len(known) if known else None
