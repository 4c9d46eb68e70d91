"""The front between the steered preferences: its picture, its figures beside each other, and what they say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from moslim_core.evaluation.fronts import Front, OperatingPoint
from moslim_core.preferences import PreferenceSchema
from moslim_core.report.content import Both, ReportContent
from moslim_core.report.differences import difference, overlap_said
from moslim_core.report.drawing import INK, SERIES, SYSTEMS, dress, grid, legend
from moslim_core.report.wording import listing, with_bounds

DIGITS = 3


class Quality(NamedTuple):
    """One figure of a front: the field of `Front` that has it, and how it is read."""

    field: str
    title: str
    about: str


QUALITIES = (
    Quality("hypervolume", "Hypervolume", "volume above the reference point; more is better"),
    Quality("inner_product", "Inner product", "do scores go where the weights point? more is better"),
    Quality("sparsity", "Sparsity", "mean squared step from point to point; less is better, beside a large hypervolume"),
    Quality("spacing", "Spacing", "how uneven the points lie; less is better, beside a large hypervolume"),
)


def hypervolume_said(fronts: Both[Front]) -> str:
    """One sentence: whose front dominates more."""
    before, after = fronts.before.hypervolume, fronts.after.hypervolume
    verdict = {
        "higher": "the policy's front is better",
        "lower": "the policy's front is worse",
        "not shown": "a gain over the prompt alone is not shown",
        "can't be compared": "nothing is claimed",
    }[difference(before, after)]
    return (
        f"Front between {listing(list(fronts.after.reference))}, {len(fronts.after.points)} operating points: hypervolume "
        f"{with_bounds(before, DIGITS)} for the prompt alone, {with_bounds(after, DIGITS)} for the policy; "
        f"{overlap_said(before, after)}: {verdict}."
    )


def non_dominated_said(fronts: Both[Front]) -> str:
    """One sentence: how many of its own points each system has to offer."""
    counts = [sum(point.non_dominated for point in front.points) for front in (fronts.before, fronts.after)]
    return (
        f"Of the {len(fronts.after.points)} points of each, {counts[0]} of the prompt alone and {counts[1]} of the policy are not "
        "dominated by another of the same system."
    )


def best_said(schema: PreferenceSchema, names: Iterable[str]) -> str:
    """What scores 1, in words: "verbosity: a few words; warmth: warm and cheerful"."""
    preferences = [schema[name] for name in names]
    return "; ".join(f"{p.name}: {p.label(max(range(1, p.k + 1), key=p.score))}" for p in preferences)


def front_figure(content: ReportContent) -> Figure:
    """Mean scores at the operating points: a plane for two preferences, parallel coordinates for more."""
    assert content.fronts is not None, "drawn only where there are fronts"
    return _plane(content.fronts) if len(content.fronts.after.reference) == 2 else _parallel(content.fronts)


def _plane(fronts: Both[Front]) -> Figure:
    figure, (ax,) = grid(1, 1, height=4.2)
    figure.set_figwidth(6.2)
    x, y = fronts.after.reference
    for (name, colour, marker, line), front in zip(SYSTEMS, (fronts.before, fronts.after), strict=True):
        (across, left, right), (up, low, high), best = _columns(front, x), _columns(front, y), _best(front)
        ax.hlines(up, left, right, color=colour, lw=1.2, alpha=0.45)
        ax.vlines(across, low, high, color=colour, lw=1.2, alpha=0.45)
        ax.plot(across, up, color=colour, ls=line, lw=1, alpha=0.7)
        ax.plot(across[best], up[best], marker, color=colour, ms=6, label=name)
        ax.plot(across[~best], up[~best], marker, color=colour, ms=6, mfc="none")
    # A coordinate that is not known draws nothing.
    ax.plot(*np.array([*fronts.after.reference.values()], dtype=float), "+", color=INK, ms=9, label="reference point")
    dress(ax, "", f"mean score: {x}", f"mean score: {y}")
    legend(figure, ax)
    return figure


def _parallel(fronts: Both[Front]) -> Figure:
    names = list(fronts.after.reference)
    favoured = [_favoured(point) for point in fronts.after.points]
    styles: dict[str | None, tuple[str, str]] = {name: (SERIES[n % len(SERIES)], "-") for n, name in enumerate(names)} | {None: (INK, "--")}
    figure, axes = grid(2, 2, height=3.4)
    for ax, (title, _, _, _), front in zip(axes, SYSTEMS, (fronts.before, fronts.after), strict=True):
        values = np.array([_columns(front, name)[0] for name in names])
        for name, scores, best in zip(favoured, values.T, _best(front), strict=True):
            colour, line = styles[name]
            ax.plot(names, scores, color=colour, ls=line, lw=1.7, marker="o", ms=5, mfc=colour if best else "none")
        ax.set_xlim(-0.2, len(names) - 0.8)
        dress(ax, title, "", "mean score")
    low, high = min(ax.get_ylim()[0] for ax in axes), max(ax.get_ylim()[1] for ax in axes)
    for ax in axes:
        ax.set_ylim(low, high)
    for name, (colour, line) in styles.items():
        if name in favoured:
            axes[0].plot([], [], color=colour, ls=line, lw=1.7, label=f"most weight on {name}" if name else "no preference has most")
    legend(figure, axes[0])
    return figure


def _columns(front: Front, preference: str) -> np.ndarray:
    """(3, n) of the operating points: mean scores and their bounds, NaN where undefined."""
    scores = [point.scores[preference] for point in front.points]
    return np.array([[of.value for of in scores], [of.low for of in scores], [of.high for of in scores]], dtype=float)


def _best(front: Front) -> np.ndarray:
    return np.array([point.non_dominated for point in front.points])


def _favoured(point: OperatingPoint) -> str | None:
    """The one preference with the largest weight; None where several share it."""
    largest = max(point.weights.values())
    first, *others = [name for name, weight in point.weights.items() if weight == largest]
    return None if others else first
