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
    """The best variant by a figure, and those that are not shown to be behind: their intervals share a point with its own, or are missing.
    None where its own is."""

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
    """Of each headline figure that has a better way and by which variants differ; the first of equals.

    None while some variants have more seeds than others: their intervals are of two kinds then.
    """
    if comparison.missing and len({(run.variant, run.seed) for run in comparison.runs}) < len(comparison.variants) * len(comparison.seeds):
        return []
    found = []
    for name, of in comparison.figures.items():
        means = {variant: figure.mean for variant, figure in of.items() if figure.mean.value is not None}
        better, values = kind_of(name).better, {mean.value for mean in means.values()}
        if better is None or len(values) < 2 or not kind_of(name).headline:
            continue
        best = min(means, key=lambda variant: (means[variant].value or 0.0) * (1 if better == "lower" else -1))
        beside = [v for v, figure in of.items() if v != best and overlap(figure.mean, means[best]) is not False]
        found.append(Leader(name, best, means[best], None if means[best].low is None else beside))
    return found
