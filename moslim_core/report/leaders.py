"""Who leads a comparison by each figure, and who is not shown to be behind. (ours)"""

from __future__ import annotations

from typing import NamedTuple

from moslim_core.evaluation.comparison import Comparison
from moslim_core.evaluation.figure_kinds import kind_of, label_of
from moslim_core.report.differences import overlap
from moslim_core.report.wording import counted, listing, with_bounds
from moslim_core.statistics.bootstrap import Interval

# Of more variants their number is told.
MOST_NAMED = 4


class Leader(NamedTuple):
    """The best variant by a figure, and those whose intervals share a point with its own; None where one of the two has no interval."""

    figure: str
    variant: str
    value: Interval
    beside: list[str] | None

    @property
    def sentence(self) -> str:
        """'Highest hypervolume: rlphf, 0.043 [0.010, 0.090], beyond all others.'"""
        way = "Highest" if kind_of(self.figure).better == "higher" else "Lowest"
        if self.beside is None:
            beyond = "; without intervals a lead shows nothing"
        elif not self.beside:
            beyond = ", beyond all others"
        else:
            others = listing(self.beside) if len(self.beside) <= MOST_NAMED else counted(len(self.beside), "other")
            beyond = f"; not shown to be beyond {others}"
        digits = 3 if self.figure.startswith("front/") else 2
        return f"{way} {label_of(self.figure)}: {self.variant}, {with_bounds(self.value, digits)}{beyond}."


def leaders(comparison: Comparison) -> list[Leader]:
    """Of each figure that has a better way and by which variants differ; the first of equals."""
    found = []
    for name, of in comparison.figures.items():
        means = {variant: figure.mean for variant, figure in of.items() if figure.mean.value is not None}
        better, values = kind_of(name).better, {mean.value for mean in means.values()}
        if better is None or len(values) < 2:
            continue
        best = min(means, key=lambda variant: (means[variant].value or 0.0) * (1 if better == "lower" else -1))
        shared = {variant: overlap(mean, means[best]) for variant, mean in means.items() if variant != best}
        beside = None if None in shared.values() else [variant for variant, shares in shared.items() if shares]
        found.append(Leader(name, best, means[best], beside))
    return found
