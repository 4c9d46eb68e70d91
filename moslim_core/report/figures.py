"""The figures of a report: which there are, and those of control and of the reward model."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from moslim_core.evaluation.controllability import Control, Controllability
from moslim_core.preferences import Preference, PreferenceSchema
from moslim_core.report.content import ReportContent
from moslim_core.report.differences import includes_zero
from moslim_core.report.drawing import AFTER, BEFORE, INK, SYSTEMS, cell, columns, dress, grid, legend
from moslim_core.report.front import front_figure
from moslim_core.report.overoptimisation import overoptimisation_figure, watched
from moslim_core.report.training import training_curves, training_series
from moslim_core.report.wording import number, percent


def all_figures(content: ReportContent) -> dict[str, Figure]:
    """Every figure that the content has data for, by name, in the page's order."""
    steered = any(not p.is_guard for p in content.preferences.preferences)
    wanted: tuple[tuple[str, bool, Callable[[ReportContent], Figure]], ...] = (
        ("control", steered, control_curves),
        ("length", steered, length_curves),
        ("cross_talk", bool(content.after.cross_talk), cross_talk),
        ("front", content.fronts is not None, front_figure),
        ("training", bool(training_series(content.training)), training_curves),
        ("overoptimisation", bool(watched(content.training)), overoptimisation_figure),
        ("confusion", bool(content.reward_heads), confusion_matrices),
        ("reliability", bool(content.reward_heads), reliability_curves),
    )
    return {name: draw(content) for name, present, draw in wanted if present}


def control_curves(content: ReportContent) -> Figure:
    """Both systems' curves."""
    return curves(content.preferences, _both(content))


def curves(preferences: PreferenceSchema, systems: Mapping[str, Controllability]) -> Figure:
    """Requested level against mean obtained level with 95 % intervals of one system or two, one panel per steered preference."""
    steered = _steered(preferences)
    figure, axes = grid(len(steered), 3, height=3.1)
    for ax, preference in zip(axes, steered, strict=True):
        ax.plot(
            preference.requestable,
            preference.requestable,
            color=INK,
            alpha=0.55,
            lw=1,
            ls=":",
            label="obtained = requested",
        )
        for shift, (name, colour, marker, line), control in _beside(systems, preference):
            points = [(m.level + shift, m.obtained) for m in control.levels]
            for level, obtained in points:
                if obtained.low is not None and obtained.high is not None:
                    ax.plot(
                        [level, level],
                        [obtained.low, obtained.high],
                        color=colour,
                        lw=1.6,
                        solid_capstyle="butt",
                        alpha=0.8,
                    )
            means = [(x, m.value) for x, m in points if m.value is not None]
            ax.plot(*columns(means), color=colour, ls=line, marker=marker, ms=4, lw=1.6, label=name)
        _level_axis(ax, preference)
        ax.set_yticks(range(1, preference.k + 1))
        ax.set_ylim(0.75, preference.k + 0.25)
        dress(ax, preference.name, "requested level", "obtained level")
    legend(figure, axes[0])
    return figure


def length_curves(content: ReportContent) -> Figure:
    """Mean words of the answers per requested level: control that is bought with length shows here."""
    steered = _steered(content.preferences)
    figure, axes = grid(len(steered), 3, height=2.5)
    top = 0.0
    for ax, preference in zip(axes, steered, strict=True):
        for shift, (name, colour, marker, line), control in _beside(_both(content), preference):
            points = [(m.level + shift, m.words) for m in control.levels if m.words is not None]
            ax.plot(*columns(points), color=colour, ls=line, marker=marker, ms=4, lw=1.6, label=name)
            top = max([top, *(words for _, words in points)])
        _level_axis(ax, preference)
        dress(ax, preference.name, "requested level", "words")
    for ax in axes:
        ax.set_ylim(0, top * 1.12 or 1.0)
    legend(figure, axes[0])
    return figure


def cross_talk(content: ReportContent) -> Figure:
    """Slopes of obtained on requested scores, prompt only beside policy. Bold where the 95 % interval excludes 0."""
    requested, judged = list(content.after.cross_talk), list(content.preferences.names)
    figure, axes = grid(2, 2, height=max(1.9, 0.55 * len(requested) + 1.15))
    for ax, (title, _, _, _), system in zip(axes, SYSTEMS, (content.before, content.after), strict=True):
        for y, i in enumerate(requested):
            for x, j in enumerate(judged):
                slope = system.cross_talk[i][j]
                colour = BEFORE if (slope.value or 0.0) < 0 else AFTER
                cell(ax, x, y, number(slope.value), colour, abs(slope.value or 0.0), bold=not includes_zero(slope))
                if i == j:
                    ax.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, ec=INK, lw=1.2))
        _matrix_axes(ax, judged, requested)
        dress(ax, title, "obtained", "requested", grid=False)
    return figure


def confusion_matrices(content: ReportContent) -> Figure:
    """Per reward head: share of each true level's rows that got each predicted level, with counts."""
    heads = [(content.preferences[name], head) for name, head in content.reward_heads.items()]
    figure, axes = grid(len(heads), 3, height=3.2)
    for ax, (preference, head) in zip(axes, heads, strict=True):
        for y, row in enumerate(head.confusion):
            total = sum(row)
            for x, count in enumerate(row):
                share = count / total if total else None
                cell(ax, x, y, f"{percent(share)}\n{count:,}", AFTER, share or 0.0, size=6.6)
        _matrix_axes(ax, [_tick(preference, c) for c in range(1, preference.k + 1)], list(preference.levels))
        dress(ax, preference.name, "predicted level", "true level", grid=False)
    return figure


def reliability_curves(content: ReportContent) -> Figure:
    """Per reward head: accuracy against confidence of the top level; a calibrated head lies on the diagonal."""
    figure, axes = grid(len(content.reward_heads), 3, height=2.6)
    for ax, (name, head) in zip(axes, content.reward_heads.items(), strict=True):
        ax.plot([0, 1], [0, 1], color=INK, lw=0.8, ls="--", alpha=0.6)
        confidence, accuracy = [b.confidence for b in head.reliability], [b.accuracy for b in head.reliability]
        ax.plot(confidence, accuracy, color=AFTER, lw=1.2)
        ax.scatter(confidence, accuracy, s=[max(6.0, 260 * b.rows / head.labelled) for b in head.reliability], color=AFTER, alpha=0.7)
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0))
        dress(ax, f"{name}: ECE {number(head.ece, 3)}", "confidence", "accuracy")
    return figure


def _steered(preferences: PreferenceSchema) -> list[Preference]:
    return [p for p in preferences.preferences if not p.is_guard]


def _both(content: ReportContent) -> dict[str, Controllability]:
    return dict(zip((name for name, *_ in SYSTEMS), (content.before, content.after), strict=True))


def _beside(systems: Mapping[str, Controllability], preference: Preference) -> list[tuple[float, tuple[str, str, str, str], Control]]:
    """Systems' style and numbers, shifted a little to either side so that their intervals stay apart; the last one is the policy."""
    shifts = (-0.018 * preference.k, 0.018 * preference.k)
    styles = [(name, *style) for name, (_, *style) in zip(systems, SYSTEMS[-len(systems) :], strict=True)]
    shown = zip(shifts[-len(systems) :], styles, systems.values(), strict=True)
    return [(shift, (name, colour, marker, line), c.preferences[preference.name]) for shift, (name, colour, marker, line), c in shown]


def _tick(preference: Preference, level: int) -> str:
    return f"{level}\n" + preference.label(level).replace(" ", "\n", 1)


def _level_axis(ax: Axes, preference: Preference) -> None:
    ax.set_xticks(list(preference.requestable), [_tick(preference, level) for level in preference.requestable])
    ax.set_xlim(preference.floor - 0.3, preference.k + 0.3)


def _matrix_axes(ax: Axes, columns: list[str], rows: list[str]) -> None:
    crowded = sum(map(len, columns)) > 52
    ax.set_xticks(range(len(columns)), columns)
    if crowded:
        for label in ax.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(rows)), rows)
    ax.set_xlim(-0.5, len(columns) - 0.5)
    ax.set_ylim(len(rows) - 0.5, -0.5)
