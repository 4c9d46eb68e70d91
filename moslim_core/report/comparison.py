"""A comparison as one HTML page: who leads by what, a picture per figure, and the table behind it."""

from __future__ import annotations

from markupsafe import Markup
from matplotlib.figure import Figure

from moslim_core.evaluation.comparison import Comparison
from moslim_core.evaluation.comparison import Figure as Found
from moslim_core.evaluation.figure_kinds import kind_of, label_of
from moslim_core.report.drawing import AFTER, INK, dress, grid, to_svg
from moslim_core.report.leaders import leaders, verdict
from moslim_core.report.templates import environment

ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}
# More variants than fit beside one another stand below one another.
ACROSS = 6


def render_comparison(comparison: Comparison) -> str:
    """The page as HTML text, without script or external resource."""
    picture = Markup(to_svg(draw(comparison))) if _drawn(comparison) else ""
    first = leaders(comparison)
    made = environment()
    made.filters["headed"] = headed
    return made.get_template("comparison.html.j2").render(
        comparison=comparison,
        title=f"{comparison.key[:1].upper()}{comparison.key[1:]}" if "." not in comparison.key else f"Values of {comparison.key}",
        verdict=verdict(first, comparison.variants),
        picture=picture,
        leaders=first,
        best={of.figure: of.variant for of in first},
        ACROSS=ACROSS,
    )


def headed(figure: str) -> str:
    """What a figure is called above its column, with an arrow to where it is better."""
    return label_of(figure) + ARROWS[kind_of(figure).better]


def draw(comparison: Comparison) -> Figure:
    """One panel per figure: each seed a small dot, the mean with its interval a large one, variants from top to bottom."""
    drawn = _drawn(comparison)
    figure, axes = grid(len(drawn), 3, height=0.9 + 0.34 * len(comparison.variants))
    for ax, (name, of) in zip(axes, drawn.items(), strict=True):
        for place, variant in enumerate(comparison.variants):
            estimate = of[variant]
            ax.scatter(list(estimate.by_seed.values()), [place] * len(estimate.by_seed), s=12, color=INK, alpha=0.5)
            if estimate.mean.value is not None:
                ax.plot(estimate.mean.value, place, "o", ms=6, color=AFTER)
            if estimate.mean.low is not None and estimate.mean.high is not None:
                ax.plot([estimate.mean.low, estimate.mean.high], [place, place], color=AFTER, lw=1.6)
        ax.set_yticks(range(len(comparison.variants)), comparison.variants)
        ax.set_ylim(len(comparison.variants) - 0.5, -0.5)
        dress(ax, headed(name), "", "")
    return figure


def _drawn(comparison: Comparison) -> dict[str, dict[str, Found]]:
    """Headline figures in which any two runs differ: the others' panels would show nothing."""
    headlines = {name: of for name, of in comparison.figures.items() if kind_of(name).headline}
    return {name: of for name, of in headlines.items() if len({v for each in of.values() for v in each.by_seed.values()}) > 1}
