"""One HTML file that tells the whole run: no script, no external resource, the same content always makes the same page.

This module chooses what stands where; `page.html.j2` holds the words around it and `page.css` its looks. All text is
escaped by the template; only the figures' SVG, which this package draws, goes in as it is.
"""

from __future__ import annotations

import json
import shlex
from typing import Any, NamedTuple

from markupsafe import Markup

from moslim_core.evaluation.controllability import Control
from moslim_core.report import attack, benchmarks, front, next_steps, overoptimisation, wording
from moslim_core.report.content import ReportContent
from moslim_core.report.differences import difference, overlap_said
from moslim_core.report.drawing import to_svg
from moslim_core.report.figures import all_figures
from moslim_core.report.summary import summarise
from moslim_core.report.templates import environment
from moslim_core.report.training import smoothing, training_series
from moslim_core.statistics.bootstrap import Interval


class Card(NamedTuple):
    """One key number."""

    label: str
    value: str
    bounds: str
    detail: str


class Measure(NamedTuple):
    """One column of the control table: how it is read, and the field of `Control` it shows."""

    title: str
    better: str
    field: str
    as_percent: bool


MEASURES = (
    Measure("Spearman", "higher", "spearman", False),
    Measure("MAE", "lower", "mae", False),
    Measure("Exact", "higher", "exact", True),
    Measure("±1", "higher", "within_one", True),
    Measure("Span", "higher", "span", False),
)


# A page may be reused in another work directory, so it takes what commands take where nothing is said.
POLICY = ".moslim/latest/policy"


def render(content: ReportContent) -> str:
    """The page as HTML text."""
    templates = environment()
    templates.globals.update(
        measured=measured, difference=difference, overlap_said=overlap_said, zip=zip,
        attack=attack, front=front, benchmarks=benchmarks, overoptimisation=overoptimisation,
    )  # fmt: skip
    summary = summarise(content)
    best = content.preferences[summary.best]
    return templates.get_template("page.html.j2").render(
        content=content,
        schema=content.preferences,
        summary=summary,
        best=best,
        chats=[shlex.join(["moslim", *words]) for words in next_steps.chats(best, "--policy", POLICY)],
        policy=POLICY,
        cards=_cards(content),
        measures=MEASURES,
        steered=[p for p in content.preferences.preferences if not p.is_guard],
        guards=[p for p in content.preferences.preferences if p.is_guard],
        systems=(("prompt only", "before", content.before), ("policy", "after", content.after)),
        watched=overoptimisation.watched(content.training),
        unwatched=overoptimisation.unwatched(content.training),
        phases=_phases(content.training),
        figures={name: Markup(to_svg(figure)) for name, figure in all_figures(content).items()},
        window=max((smoothing(len(values)) for _, values in training_series(content.training).values()), default=1),
        settings=json.dumps(content.model_dump(mode="json")["settings"], indent=2, ensure_ascii=False),
    )  # fmt: skip


def measured(control: Control, measure: Measure) -> dict[str, Any]:
    """A table cell: the value and its bounds as text."""
    interval: Interval = getattr(control, measure.field)
    shown = wording.percent if measure.as_percent else wording.number
    return {"value": shown(interval.value), "bounds": wording.bounds(interval, measure.as_percent)}


def _cards(content: ReportContent) -> list[Card]:
    """Spearman of each steered preference first, then what bounds its meaning and what it cost; none without a value."""
    cards = []
    for preference in content.preferences.preferences:
        if not preference.is_guard:
            before, after = (c.preferences[preference.name].spearman for c in (content.before, content.after))
            cards.append(
                Card(
                    f"{preference.name}: Spearman", wording.number(after.value), wording.bounds(after),
                    f"prompt only {wording.with_bounds(before)}",
                )
            )  # fmt: skip
    if content.fronts:
        before, after = content.fronts.before.hypervolume, content.fronts.after.hypervolume
        cards.append(
            Card(
                "Hypervolume of the front", wording.number(after.value, front.DIGITS), wording.bounds(after, digits=front.DIGITS),
                f"prompt only {wording.with_bounds(before, front.DIGITS)}",
            )
        )  # fmt: skip
    time = sum(content.seconds.values()) if content.seconds else None
    memory = content.peak_memory_gb
    steps, values = training_series(content.training).get("kl_sequence", ([], []))
    cards += [
        Card("Answers evaluated", f"{content.after.answers:,}", "", f"prompt only {content.before.answers:,}"),
        Card(
            "Answers cut at the limit", wording.percent(content.after.truncated), "",
            f"prompt only {wording.percent(content.before.truncated)}",
        ),
        Card(
            "Answers off the topic", wording.percent(content.after.off_topic), "",
            f"prompt only {wording.percent(content.before.off_topic)}",
        ),
        Card(
            "Answers that only say the question again", wording.percent(content.after.restated), "",
            f"prompt only {wording.percent(content.before.restated)}",
        ),
        Card(
            "KL to the starting policy", f"{wording.number(values[-1], 1)} nats" if values else wording.UNDEFINED, "",
            f"per answer, at step {steps[-1]:.0f}" if steps else "",
        ),
        Card("Time of the stages run", wording.duration(time), "", f"peak memory {memory:.1f} GB" if memory is not None else ""),
    ]  # fmt: skip
    return [card for card in cards if card.value != wording.UNDEFINED]


def _phases(training: list[dict[str, float]]) -> dict[str, float]:
    """Phase -> seconds over all steps, the longest first. What a step took beyond its phases is learning again from answers at hand."""
    prefix, totals = "seconds/", dict[str, float]()
    for row in training:
        named = {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}
        whole = named.pop("step", None)
        if whole is not None:
            named["update"] = named.get("update", 0.0) + max(0.0, whole - sum(named.values()))
        for phase, seconds in named.items():
            totals[phase] = totals.get(phase, 0.0) + seconds
    return dict(sorted(totals.items(), key=lambda phase: -phase[1]))
