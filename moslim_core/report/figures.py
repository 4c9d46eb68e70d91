"""The figures of a report, drawn without pyplot, so that nothing global remembers them.

Ink and the two systems' colours are CSS values in the inline SVG (`to_svg`), so that one drawing suits a light and a
dark page; a PNG (`save_png`) has fixed colours on white.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from moslim_core.evaluation.controllability import Control, Controllability
from moslim_core.preferences import Preference
from moslim_core.report.content import ReportContent
from moslim_core.report.summary import includes_zero
from moslim_core.report.wording import number, percent

INK, BEFORE, AFTER = "#3f4754", "#c2570c", "#0b6bb8"
# After Okabe and Ito, for lines of equal rank: none is a system's colour, all show on light and on dark.
SERIES = ("#009e73", "#cc79a7", "#b09500", "#8a63d2", "#56b4e9", "#8a8a8a")
_CSS = {INK: "currentColor", BEFORE: f"var(--before, {BEFORE})", AFTER: f"var(--after, {AFTER})"}
_SYSTEMS = (("prompt only", BEFORE, "s", "--"), ("policy", AFTER, "o", "-"))
_WIDTH = 10.0
_SMOOTH_FROM = 20


class Panel(NamedTuple):
    """One training plot: its title and which metrics it shows, by exact name or, where it ends in '/', by prefix."""

    title: str
    metrics: tuple[str, ...]
    share: bool = False


PANELS = (
    Panel("Reward", ("reward",)),
    Panel("Utility per preference", ("utility/",)),
    Panel("KL per answer (nats)", ("kl_sequence",)),
    Panel("KL per token (nats)", ("kl",)),
    Panel("Entropy per token (nats)", ("entropy",)),
    Panel("Answer length (tokens)", ("completion_tokens",)),
    Panel("Share of answers cut at the limit", ("truncated",), share=True),
    Panel("Share of groups without variance", ("zero_variance", "zero_variance/"), share=True),
    Panel("Seconds per phase", ("seconds/",)),
)


# --- figures ----------------------------------------------------------------------------------------------------------


def all_figures(content: ReportContent) -> dict[str, Figure]:
    """Every figure that the content has data for, by name: control, length, cross_talk, training, confusion, reliability."""
    steered = any(not p.is_guard for p in content.preferences.preferences)
    wanted: tuple[tuple[str, bool, Callable[[ReportContent], Figure]], ...] = (
        ("control", steered, control_curves),
        ("length", steered, length_curves),
        ("cross_talk", bool(content.after.cross_talk), cross_talk),
        ("training", bool(training_series(content.training)), training_curves),
        ("confusion", bool(content.reward_heads), confusion_matrices),
        ("reliability", bool(content.reward_heads), reliability_curves),
    )
    return {name: draw(content) for name, present, draw in wanted if present}


def control_curves(content: ReportContent) -> Figure:
    """Requested level against mean obtained level with 95 % intervals, one panel per steered preference."""
    steered = _steered(content)
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
        for shift, (name, colour, marker, line), control in _both(content, preference):
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
            ax.plot(*_columns(means), color=colour, ls=line, marker=marker, ms=4, lw=1.6, label=name)
        _level_axis(ax, preference)
        ax.set_yticks(range(1, preference.k + 1))
        ax.set_ylim(0.75, preference.k + 0.25)
        dress(ax, preference.name, "requested level", "obtained level")
    _legend(figure, axes[0])
    return figure


def length_curves(content: ReportContent) -> Figure:
    """Mean words of the answers per requested level: control that is bought with length shows here."""
    steered = _steered(content)
    figure, axes = grid(len(steered), 3, height=2.5)
    top = 0.0
    for ax, preference in zip(axes, steered, strict=True):
        for shift, (name, colour, marker, line), control in _both(content, preference):
            points = [(m.level + shift, m.words) for m in control.levels if m.words is not None]
            ax.plot(*_columns(points), color=colour, ls=line, marker=marker, ms=4, lw=1.6, label=name)
            top = max([top, *(words for _, words in points)])
        _level_axis(ax, preference)
        dress(ax, preference.name, "requested level", "words")
    for ax in axes:
        ax.set_ylim(0, top * 1.12 or 1.0)
    _legend(figure, axes[0])
    return figure


def cross_talk(content: ReportContent) -> Figure:
    """Slopes of obtained on requested scores, prompt only beside policy. Bold where the 95 % interval excludes 0."""
    asked, judged = list(content.after.cross_talk), list(content.preferences.names)
    figure, axes = grid(2, 2, height=max(1.9, 0.55 * len(asked) + 1.15))
    for ax, (title, _, _, _), system in zip(axes, _SYSTEMS, (content.before, content.after), strict=True):
        for y, i in enumerate(asked):
            for x, j in enumerate(judged):
                slope = system.cross_talk[i][j]
                colour = BEFORE if (slope.value or 0.0) < 0 else AFTER
                _cell(ax, x, y, number(slope.value), colour, abs(slope.value or 0.0), bold=not includes_zero(slope))
                if i == j:
                    ax.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, ec=INK, lw=1.2))
        _matrix_axes(ax, judged, asked)
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
                _cell(ax, x, y, f"{percent(share)}\n{count:,}", AFTER, share or 0.0, size=6.6)
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


def training_curves(content: ReportContent) -> Figure:
    """One panel per logged quantity: each step thin, a centred moving mean thick."""
    series = training_series(content.training)
    panels = [(p, names) for p in PANELS if (names := _of(p, list(series)))]
    figure, axes = grid(len(panels), 3, height=2.3)
    for ax, (panel, names) in zip(axes, panels, strict=True):
        for n, name in enumerate(names):
            colour = SERIES[n % len(SERIES)] if len(names) > 1 else AFTER
            line = ("-", "--", ":")[n // len(SERIES) % 3]
            steps, values = series[name]
            window = smoothing(len(values))
            if window > 1:
                ax.plot(steps, values, color=colour, lw=0.7, alpha=0.45)
            mean, label = moving_mean(values, window), name.partition("/")[2] or "all"
            marker = "o" if len(values) == 1 else ""
            ax.plot(steps, mean, color=colour, ls=line, lw=1.8, marker=marker, label=label)
        if panel.share:
            ax.set_ylim(-0.03, 1.03)
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        dress(ax, panel.title, "step", "")
        if len(names) > 1:
            low, high = ax.get_ylim()
            room = 0.0 if panel.share else 0.14 * math.ceil(len(names) / 2)
            ax.set_ylim(low, high + room * (high - low))
            ax.legend(frameon=False, fontsize=7, labelcolor=INK, loc="upper left", ncols=2, handlelength=1.2)
    return figure


# --- training series --------------------------------------------------------------------------------------------------


def training_series(training: Sequence[dict[str, float]]) -> dict[str, tuple[list[float], list[float]]]:
    """{metric: (steps, values)} of what some panel shows; a step without a finite value is left out."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for row in training:
        for name in (n for panel in PANELS for n in _of(panel, list(row))):
            if math.isfinite(row[name]):
                steps, values = series.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(row[name])
    return series


def smoothing(points: int) -> int:
    """Window of the moving mean, odd: about a tenth of the points, 1 (none) where there are few."""
    return points // 20 * 2 + 1 if points >= _SMOOTH_FROM else 1


def moving_mean(values: Sequence[float], window: int) -> np.ndarray:
    """Centred mean over `window` points; near the ends over those that exist."""
    ones, data = np.ones(window), np.asarray(values, dtype=float)
    return np.convolve(data, ones, "same") / np.convolve(np.ones(len(data)), ones, "same")


def _of(panel: Panel, names: list[str]) -> list[str]:
    return [n for n in names for m in panel.metrics if n == m or (m.endswith("/") and n.startswith(m))]


# --- output -----------------------------------------------------------------------------------------------------------


def to_svg(figure: Figure) -> str:
    """An inline `<svg>` in the page's colours. The same figure gives the same text; its ids clash with no other's."""
    buffer = StringIO()
    with rc_context({"svg.hashsalt": "moslim", "svg.fonttype": "none"}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), flags=re.DOTALL)
    # matplotlib numbers groups from 1 in every figure: a prefix made of the drawing keeps one page's ids apart.
    prefix = hashlib.sha256(svg.encode()).hexdigest()[:10]
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>f{prefix}-", svg)
    for colour, css in _CSS.items():
        svg = svg.replace(colour, css)
    # Every figure at one scale: a share of the page's width, and on a narrow screen never too small to read.
    width = figure.get_figwidth() / _WIDTH
    return re.sub(
        r'width="[\d.]+pt" height="[\d.]+pt"',
        f'style="width:{100 * width:.4g}%;min-width:{44 * width:.4g}rem"',
        svg,
        count=1,
    )


def save_png(figure: Figure, path: Path) -> None:
    """The figure on white, 160 dots per inch."""
    figure.savefig(path, format="png", dpi=160, facecolor="white", metadata={"Software": None})


# --- parts ------------------------------------------------------------------------------------------------------------


def _steered(content: ReportContent) -> list[Preference]:
    return [p for p in content.preferences.preferences if not p.is_guard]


def _both(content: ReportContent, preference: Preference) -> list[tuple[float, tuple[str, str, str, str], Control]]:
    """Both systems' style and numbers, shifted a little to either side so that their intervals stay apart."""
    systems: tuple[Controllability, ...] = (content.before, content.after)
    shifts = (-0.018 * preference.k, 0.018 * preference.k)
    return [(s, style, c.preferences[preference.name]) for s, style, c in zip(shifts, _SYSTEMS, systems, strict=True)]


def _columns(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def grid(panels: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of `panels` panels, at most `columns` abreast, each `height` inches high."""
    across = min(panels, columns)
    rows = math.ceil(panels / columns)
    layout = ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.07)
    figure = Figure(figsize=(min(_WIDTH, 4.7 * across), height * rows), layout=layout)
    axes = [figure.add_subplot(rows, across, n + 1) for n in range(panels)]
    figure.align_xlabels()
    return figure, axes


def dress(ax: Axes, title: str, x: str, y: str, grid: bool = True) -> None:
    """The house look: ink only, two spines, a faint grid."""
    ax.set_title(title, fontsize=9.5, fontweight="bold", color=INK, loc="left")
    ax.set_xlabel(x, fontsize=8, color=INK)
    ax.set_ylabel(y, fontsize=8, color=INK)
    ax.tick_params(colors=INK, labelsize=7.5, length=3 if grid else 0, width=0.7)
    ax.patch.set_visible(False)
    for side, spine in ax.spines.items():
        spine.set_visible(grid and side in ("left", "bottom"))
        spine.set_color(INK)
        spine.set_linewidth(0.7)
    if grid:
        ax.grid(color=INK, alpha=0.14, lw=0.6)
        ax.set_axisbelow(True)


def _legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda n: labels[n].startswith("obtained"))
    figure.legend(
        [handles[n] for n in order], [labels[n] for n in order],
        loc="outside upper left", ncols=len(labels), frameon=False, fontsize=8, labelcolor=INK,
    )  # fmt: skip


def _tick(preference: Preference, level: int) -> str:
    return f"{level}\n" + preference.label(level).replace(" ", "\n", 1)


def _level_axis(ax: Axes, preference: Preference) -> None:
    ax.set_xticks(list(preference.requestable), [_tick(preference, level) for level in preference.requestable])
    ax.set_xlim(preference.floor - 0.3, preference.k + 0.3)


def _cell(ax: Axes, x: int, y: int, text: str, colour: str, strength: float, bold: bool = False, size: float = 8) -> None:
    # At most 60 % opaque: the page's own text colour stays readable on it, light or dark.
    ax.add_patch(Rectangle((x - 0.47, y - 0.47), 0.94, 0.94, fc=colour, alpha=0.04 + 0.56 * min(strength, 1.0), lw=0))
    ax.text(x, y, text, ha="center", va="center", fontsize=size, color=INK, fontweight="bold" if bold else "normal")


def _matrix_axes(ax: Axes, columns: list[str], rows: list[str]) -> None:
    crowded = sum(map(len, columns)) > 52
    ax.set_xticks(range(len(columns)), columns)
    if crowded:
        for label in ax.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(rows)), rows)
    ax.set_xlim(-0.5, len(columns) - 0.5)
    ax.set_ylim(len(rows) - 0.5, -0.5)
