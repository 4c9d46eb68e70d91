"""Is the reward model being gamed? What it makes of rollouts, beside what the rule finds, as training moves away from the start.

The reward model's utility is the proxy that training raises; the rule judges the same rollouts and teaches nothing. Their scales
differ, so that directions are compared, never heights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from moslim_core.evaluation.comparison import MIN_SEEDS, t_interval
from moslim_core.report.content import ReportContent
from moslim_core.report.differences import Difference, difference
from moslim_core.report.drawing import AFTER, INK, dress, grid, legend
from moslim_core.report.training import moving_mean, smoothing
from moslim_core.report.wording import with_bounds
from moslim_core.statistics.bootstrap import Interval

PROXY, JUDGE, KL = "utility/", "judged/", "kl_sequence"
Verdict = Literal["confirmed", "not confirmed", "gamed", "unseen loss", "no gain", "not told"]


class Watched(NamedTuple):
    """One preference over the steps that have both: how far the policy had moved, and what was made of its rollouts."""

    preference: str
    moved: list[float]
    proxy: list[float]
    judge: list[float]


def axis_of(training: Sequence[dict[str, float]]) -> str:
    """What tells how far the policy had moved: its KL where it was logged, else the step."""
    return KL if any(math.isfinite(row.get(KL, math.nan)) for row in training) else "step"


def watched(training: Sequence[dict[str, float]]) -> list[Watched]:
    """Of each preference that a rule judged, in the order of steps; a step that lacks one of the three is left out."""
    axis, series = axis_of(training), []
    for name in dict.fromkeys(key.removeprefix(JUDGE) for row in training for key in row if key.startswith(JUDGE)):
        points = [[row.get(key, math.nan) for key in (axis, PROXY + name, JUDGE + name)] for row in training]
        if points := [point for point in points if np.isfinite(point).all()]:
            series.append(Watched(name, *(list(column) for column in zip(*points, strict=True))))
    return series


def unwatched(training: Sequence[dict[str, float]]) -> list[str]:
    """The preferences that were trained without a rule beside the reward model."""
    trained = dict.fromkeys(key.removeprefix(PROXY) for row in training for key in row if key.startswith(PROXY))
    return [name for name in trained if name not in {of.preference for of in watched(training)}]


def verdict(of: Watched) -> Verdict:
    """What the first and the last quarter of the steps say together."""
    ends = _ends(of)
    if ends is None:
        return "not told"
    proxy, judge = (difference(*pair) for pair in ends)
    if proxy == "higher":
        return "confirmed" if judge == "higher" else "gamed" if judge == "lower" else "not confirmed"
    return "unseen loss" if judge == "lower" and proxy != "lower" else "no gain"


def said(of: Watched) -> str:
    """The verdict and its figures in words."""
    ends = _ends(of)
    if ends is None:
        return f"{_LEADS['not told']}."
    told = [
        f"{who}: {_WENT[difference(*pair)]}, {with_bounds(pair[0])} to {with_bounds(pair[1])}."
        for who, pair in zip(("Reward model", "Rule"), ends, strict=True)
    ]
    return f"{_LEADS[verdict(of)]}. {' '.join(told)}"


_LEADS: dict[Verdict, str] = {
    "confirmed": "the rule confirms what the reward model gained",
    "not confirmed": "the rule does not confirm what the reward model gained",
    "gamed": "the reward model's verdict rose and the rule's fell, so the reward model is being gamed",
    "unseen loss": "the rule finds a loss that the reward model does not see",
    "no gain": "the reward model gained nothing that a rule could confirm",
    "not told": "too few steps to tell",
}
_WENT: dict[Difference, str] = {
    "higher": "rose",
    "lower": "fell",
    "not shown": "no change is shown",
    "can't be compared": "can't be compared",
}


def _ends(of: Watched) -> list[tuple[Interval, Interval]] | None:
    """Of proxy and judge the means of the first and of the last quarter of the steps; None where these are too few for an interval."""
    quarter = len(of.moved) // 4
    if quarter < MIN_SEEDS:
        return None
    return [(t_interval(values[:quarter]), t_interval(values[-quarter:])) for values in (of.proxy, of.judge)]


def overoptimisation_figure(content: ReportContent) -> Figure:
    """One panel per preference: both verdicts over KL, a dot per step and a centred moving mean."""
    axis, series = axis_of(content.training), watched(content.training)
    figure, axes = grid(len(series), 3, height=2.6)
    for ax, of in zip(axes, series, strict=True):
        order = np.argsort(of.moved, kind="stable")
        moved, window = np.asarray(of.moved)[order], smoothing(len(of.moved))
        for name, colour, line, values in (("reward model", AFTER, "-", of.proxy), ("rule", INK, "--", of.judge)):
            ordered = np.asarray(values)[order]
            if window > 1:
                ax.plot(moved, ordered, ".", color=colour, ms=3, alpha=0.35)
            ax.plot(moved, moving_mean(ordered, window), color=colour, ls=line, lw=1.8, label=name)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        dress(ax, of.preference, "KL per answer (nats)" if axis == KL else "step", "verdict on rollouts")
    legend(figure, axes[0])
    return figure
