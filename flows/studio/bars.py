"""What was found in an answer as bars: a cell a level, shaded by its probability, with what was asked for and what the rules say on it."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from flows.studio.found_levels import Found, said
from moslim_core.preferences import Preference, PreferenceSchema
from moslim_core.report.wording import distance, obtained, percent

LEGEND = "Shade: the reward model's probability of the level. ▼ asked for, ● what the rules find."

_ROW = Markup(
    '<div class="found" role="img" aria-label="{said}"><span class="name">{name}</span><span class="cells">{cells}</span>{badge}</div>'
)
_CELL = Markup('<i class="{classes}" style="--p:{share:.3f}" title="{title}">{marks}</i>')


def bars(findings: Sequence[Found], schema: PreferenceSchema) -> str:
    """HTML of a bar a preference."""
    return str(Markup("").join(_bar(one, schema[one.preference]) for one in findings))


def _bar(finding: Found, preference: Preference) -> Markup:
    cells = Markup("").join(_cell(finding, preference, level) for level in range(1, preference.k + 1))
    # An open preference has an obtained level, too, but none that it hits or misses.
    how_far = "unknown" if finding.asked is None else distance(finding.obtained, finding.asked)
    badge = Markup('<span class="badge {}">{}</span>').format(how_far, obtained(finding.obtained, preference))
    return _ROW.format(said=said(finding, preference), name=preference.name, cells=cells, badge=badge)


def _cell(finding: Found, preference: Preference, level: int) -> Markup:
    share = finding.probabilities[level - 1] if finding.probabilities else 0.0
    wanted, ruled = finding.asked == level, finding.rule == level
    title = f"{level} · {preference.label(level)}" + (f": {percent(share)} by the reward model" if finding.probabilities else "")
    title += (", asked for" if wanted else "") + (", found by the rules" if ruled else "")
    marks = Markup("").join(Markup("<b>{}</b>").format(mark) for mark, there in (("▼", wanted), ("●", ruled)) if there)
    return _CELL.format(classes="wanted" if wanted else "", share=share, title=title, marks=marks)
