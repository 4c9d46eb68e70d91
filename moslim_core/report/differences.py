"""Whether two systems differ by a figure: only where their 95 % intervals share no point.

That is stricter than a test of the difference, so an overlap means "not shown", not "no difference".
"""

from __future__ import annotations

from typing import Literal

from moslim_core.statistics.bootstrap import Interval

Difference = Literal["higher", "lower", "not shown", "can't be compared"]


def overlap(a: Interval, b: Interval) -> bool | None:
    """Whether two intervals share a point; None where one of them has no bounds."""
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return None
    return a.low <= b.high and b.low <= a.high


def overlap_said(a: Interval, b: Interval) -> str:
    """The same in words."""
    return {True: "the intervals overlap", False: "the intervals do not overlap", None: "the intervals can't be compared"}[overlap(a, b)]


def difference(before: Interval, after: Interval) -> Difference:
    """Which way `after` lies from `before`, where that is shown."""
    shared = overlap(before, after)
    if shared is None or before.value is None or after.value is None:
        return "can't be compared"
    if shared:
        return "not shown"
    return "higher" if after.value > before.value else "lower"


def includes_zero(interval: Interval) -> bool:
    """Whether 0 lies within the bounds; an interval without bounds rules nothing out."""
    return interval.low is None or interval.high is None or interval.low <= 0 <= interval.high
