"""Who leads a comparison by each figure, and who is not shown to be behind. (ours)"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
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


def verdict(found: Sequence[Leader], variants: Sequence[str]) -> str:
    """'Best, or not shown to be behind the best: a by 5 of 6 figures, b and c by 4.' Nothing where no figure has intervals."""
    told = [leader for leader in found if leader.beside is not None]
    if not told:
        return ""
    times = Counter(variant for leader in told for variant in (leader.variant, *(leader.beside or ())))
    ranks = defaultdict(list)
    for variant in variants:
        ranks[times[variant]].append(variant)
    counts = [
        f"{listing(names) if len(names) <= MOST_NAMED else counted(len(names), 'row')} by {count or 'none'}"
        for count, names in sorted(ranks.items(), reverse=True)
    ]
    counts[0] += f" of {counted(len(told), 'figure')}"
    return f"Best, or not shown to be behind the best: {', '.join(counts)}."


def told(comparison: Comparison) -> str:
    """The verdict and the leaders as markdown; where nothing differs, what was compared."""
    found = leaders(comparison)
    first = verdict(found, comparison.variants) or f"{comparison.key}: {listing(comparison.variants)}."
    return "\n\n".join(filter(None, [f"**{first}**", "\n".join(f"- {leader.sentence}" for leader in found)]))
