"""How far new rated rows are from those that a policy was trained on, from the data cards of both. (ours)

Labels: the population stability index per preference, sum over levels of (q - p) ln(q / p) of their shares. By custom below 0.1 says
that nothing moved, above 0.25 that much did. Prompts: the median length in words, which has drifted where it leaves the middle half
of the old lengths. A drift is told; it decides nothing by itself, since both policies are measured on the new prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any, NamedTuple

MOVED = 0.25


class Drift(NamedTuple):
    """`value` of what was looked at; it has `drifted` outside of `low` to `high`."""

    what: str
    value: float
    low: float
    high: float

    @property
    def drifted(self) -> bool:
        return not self.low <= self.value <= self.high

    def __str__(self) -> str:
        return f"{self.what} {self.value:.3g} (bounds {self.low:.3g} to {self.high:.3g})"


def stability_index(old: Mapping[str, int], new: Mapping[str, int]) -> float:
    """Of counts by level. Half a row more in each level keeps empty ones finite."""
    levels = sorted({*old, *new})
    before, after = ([(of.get(level, 0) + 0.5) for level in levels] for of in (old, new))
    shares = [(b / sum(before), a / sum(after)) for b, a in zip(before, after, strict=True)]
    return sum((a - b) * log(a / b) for b, a in shares)


def drifts(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Drift]:
    """Labels of each preference that both data cards have, and the length of prompts."""
    label_drifts = [
        Drift(f"labels of {name}: stability index", stability_index(old["labels"][name]["levels"], of["levels"]), 0.0, MOVED)
        for name, of in new["labels"].items()
        if name in old["labels"]
    ]
    before, after = old["prompt_words"], new["prompt_words"]
    return [*label_drifts, Drift("prompts: median words", after["50"], before["25"], before["75"])]
