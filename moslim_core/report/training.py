"""What training logged, as series and as one figure of many panels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from moslim_core.report.content import ReportContent
from moslim_core.report.drawing import AFTER, INK, SERIES, dress, grid

_SMOOTH_FROM = 20


class Panel(NamedTuple):
    """One training plot: its title and which metrics it shows, by exact name or, where it ends in '/', all directly below it."""

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
    Panel("Share of answers off the topic", ("off_topic",), share=True),
    Panel("Share of answers that restate the question", ("restated",), share=True),
    Panel("Share of groups without variance", ("zero_variance", "zero_variance/"), share=True),
    Panel("Seconds per phase", ("seconds/",)),
)


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
            ax.set_yticks(np.linspace(0, 1, 6))
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        dress(ax, panel.title, "step", "")
        if len(names) > 1:
            low, high = ax.get_ylim()
            ax.set_ylim(low, high + 0.14 * math.ceil(len(names) / 2) * (high - low))
            ax.legend(frameon=False, fontsize=7, labelcolor=INK, loc="upper left", ncols=2, handlelength=1.2)
    return figure


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


def moving_mean(values: Sequence[float] | np.ndarray, window: int) -> np.ndarray:
    """Centred mean over `window` points; near the ends over those that exist."""
    ones, data = np.ones(window), np.asarray(values, dtype=float)
    return np.convolve(data, ones, "same") / np.convolve(np.ones(len(data)), ones, "same")


def _of(panel: Panel, names: list[str]) -> list[str]:
    return [n for n in names for m in panel.metrics if n == m or (m.endswith("/") and n.rpartition("/")[0] + "/" == m)]
