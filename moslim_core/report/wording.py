"""How numbers are written: one place, so that an undefined figure is "n/a" everywhere and never 0."""

from __future__ import annotations

import math
from collections.abc import Sequence

from moslim_core.preferences import Preference
from moslim_core.statistics.bootstrap import Interval

UNDEFINED = "n/a"


def number(value: float | None, digits: int = 2) -> str:
    """'0.71' with a true minus sign, or 'n/a' for null and for what is not finite. Never a negative zero."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")


def percent(value: float | None) -> str:
    """'71%' of a share in [0, 1], or 'n/a'."""
    return UNDEFINED if value is None or not math.isfinite(value) else f"{100 * value:.0f}%"


def bounds(interval: Interval, as_percent: bool = False, digits: int = 2) -> str:
    """'[0.60, 0.80]', or nothing where there are no bounds."""
    if interval.low is None or interval.high is None:
        return ""
    if as_percent:
        return f"[{100 * interval.low:.0f}, {100 * interval.high:.0f}]"
    return f"[{number(interval.low, digits)}, {number(interval.high, digits)}]"


def with_bounds(interval: Interval, digits: int = 2) -> str:
    """'0.71 [0.60, 0.80]'."""
    return f"{number(interval.value, digits)} {bounds(interval, digits=digits)}".rstrip()


def count_or_share(value: float) -> str:
    """'1,200' of a whole number, '0.97' of any other."""
    return number(value, 0 if float(value).is_integer() else 2)


def duration(seconds: float | None) -> str:
    """'48 s', '12 min 5 s', '3 h 20 min'."""
    if seconds is None or not math.isfinite(seconds):
        return UNDEFINED
    if 0 < seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def listing(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def counted(n: int, noun: str) -> str:
    """'1 answer', '1,200 answers'."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def obtained(level: float | None, preference: Preference) -> str:
    """The judge's level, as 'obtained 2 · short'; a level between two carries the nearest one's label."""
    if level is None:
        return f"obtained {UNDEFINED}"
    label = preference.label(min(max(round(level), 1), preference.k))
    return f"obtained {level:.0f} · {label}" if float(level).is_integer() else f"obtained {level:.1f} · near {label}"


def distance(level: float | None, requested: int) -> str:
    """How far off an obtained level is, as the class of its badge: hit, near (1 off), far, or unknown."""
    if level is None:
        return "unknown"
    return ("hit", "near", "far")[min(abs(round(level) - requested), 2)]
