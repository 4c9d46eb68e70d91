"""The house look of every figure, and how it leaves as SVG or PNG. Drawn without pyplot, so that nothing global remembers it.

Ink and the two systems' colours are CSS values in the inline SVG (`to_svg`), so that one drawing suits a light and a
dark page; a PNG (`save_png`) has fixed colours on white.
"""

from __future__ import annotations

import hashlib
import math
import re
from io import StringIO
from pathlib import Path
from typing import BinaryIO

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

INK, BEFORE, AFTER = "#3f4754", "#c2570c", "#0b6bb8"
# After Okabe and Ito, for lines of equal rank: none is a system's colour, all show on light and on dark.
SERIES = ("#009e73", "#cc79a7", "#b09500", "#8a63d2", "#56b4e9", "#8a8a8a")
_CSS = {INK: "currentColor", BEFORE: f"var(--before, {BEFORE})", AFTER: f"var(--after, {AFTER})"}
SYSTEMS = (("prompt only", BEFORE, "s", "--"), ("policy", AFTER, "o", "-"))
_WIDTH = 10.0


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


def legend(figure: Figure, ax: Axes) -> None:
    """One legend above all panels, with what was obtained after what was requested."""
    handles, labels = ax.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda n: labels[n].startswith("obtained"))
    figure.legend(
        [handles[n] for n in order], [labels[n] for n in order],
        loc="outside upper left", ncols=len(labels), frameon=False, fontsize=8, labelcolor=INK,
    )  # fmt: skip


def cell(ax: Axes, x: int, y: int, text: str, colour: str, strength: float, bold: bool = False, size: float = 8) -> None:
    """A cell of a table at column x and row y; `strength` in [0, 1] says how full its colour is."""
    # At most 60 % opaque: the page's own text colour stays readable on it, light or dark.
    ax.add_patch(Rectangle((x - 0.47, y - 0.47), 0.94, 0.94, fc=colour, alpha=0.04 + 0.56 * min(strength, 1.0), lw=0))
    ax.text(x, y, text, ha="center", va="center", fontsize=size, color=INK, fontweight="bold" if bold else "normal")


def columns(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Points as matplotlib takes them: all x, all y."""
    return [x for x, _ in points], [y for _, y in points]


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


def save_png(figure: Figure, path: Path | BinaryIO) -> None:
    """The figure on white, 160 dots per inch."""
    figure.savefig(path, format="png", dpi=160, facecolor="white", metadata={"Software": None})
