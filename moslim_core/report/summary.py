"""The headline in words, derived from the numbers and from nothing else.

A preference *follows* its requests where the whole 95 % interval of its Spearman correlation lies above 0. The policy
is *better* than the prompt alone only where the two intervals do not overlap (`differences`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from moslim_core.evaluation.controllability import Control
from moslim_core.preferences import Preference
from moslim_core.report import overoptimisation
from moslim_core.report.attack import gave_way_said
from moslim_core.report.benchmarks import benchmarks_said
from moslim_core.report.content import ReportContent
from moslim_core.report.differences import difference, includes_zero, overlap, overlap_said
from moslim_core.report.front import hypervolume_said
from moslim_core.report.wording import counted, listing, with_bounds

Verdict = Literal["better", "follows", "worse", "not controlled", "not measured", "guard"]


class Finding(BaseModel):
    """What the numbers say about one preference."""

    preference: str
    verdict: Verdict
    follows: bool
    sentence: str


class Summary(BaseModel):
    """The headline, one finding a preference (schema order), and remarks on the whole. `best`: the preference to try first."""

    headline: str
    best: str
    findings: list[Finding]
    remarks: list[str]


def summarise(content: ReportContent) -> Summary:
    """What is controlled, what is not, what is held, and what else a reader must know first."""
    findings = []
    for preference in content.preferences.preferences:
        before, after = content.before.preferences[preference.name], content.after.preferences[preference.name]
        findings.append(_guard(preference, before, after) if after.guard else _steered(preference, before, after))
    return Summary(headline=_headline(findings), best=_best(content), findings=findings, remarks=_remarks(content))


def _best(content: ReportContent) -> str:
    """The steered preference that the policy follows most; a guard where there is nothing else."""

    def control(preference: Preference) -> tuple[bool, float]:
        followed = content.after.preferences[preference.name].spearman.value
        return not preference.is_guard, -1.0 if followed is None else followed

    return max(content.preferences.preferences, key=control).name


def _steered(preference: Preference, before: Control, after: Control) -> Finding:
    old, new = before.spearman, after.spearman
    follows = new.low is not None and new.low > 0
    shared = overlap(old, new)
    figures = f"Spearman {with_bounds(old)} for the prompt alone, {with_bounds(new)} for the policy; {overlap_said(old, new)}."
    verdict: Verdict
    if new.value is None:
        verdict, lead = "not measured", "control could not be measured: obtained levels do not vary or are too few"
    elif new.low is None or new.high is None:
        verdict, lead = "not measured", "control has no interval, so nothing is claimed"
    elif shared is False and old.value is not None and new.value < old.value:
        verdict = "worse"
        lead = f"the policy {'follows' if follows else 'does not follow'} the requested level; the prompt alone did better"
    elif new.high < 0:
        verdict, lead = "not controlled", "the policy moves against the requested level"
    elif not follows:
        verdict, lead = "not controlled", "the policy does not follow the requested level: its interval includes 0"
    elif shared is False:
        verdict, lead = "better", "the policy follows the requested level, and clearly better than the prompt alone"
    else:
        verdict, lead = "follows", "the policy follows the requested level; a gain over the prompt alone is not shown"
    if after.violations:
        figures += f" The level means are not monotone ({counted(after.violations, 'violation')})."
    return Finding(preference=preference.name, verdict=verdict, follows=follows, sentence=f"{lead}. {figures}")


def _guard(preference: Preference, before: Control, after: Control) -> Finding:
    """A guard is judged by the mean obtained level and its lower bound: it has no control to speak of."""
    old, new = (control.levels[-1].obtained for control in (before, after))
    sentence = (
        f"held at level {preference.k} ({preference.label(preference.k)}). Mean obtained level "
        f"{with_bounds(old)} for the prompt alone, {with_bounds(new)} for the policy; {overlap_said(old, new)}"
    )
    moved = {"higher": ": it rose", "lower": ": it fell"}.get(difference(old, new), "")
    return Finding(preference=preference.name, verdict="guard", follows=False, sentence=f"{sentence}{moved}.")


def _headline(findings: list[Finding]) -> str:
    steered = [f for f in findings if f.verdict != "guard"]
    if not steered:
        return "No preference is steered in this run: every one is a guard."

    def named(*verdicts: Verdict) -> list[str]:
        return [f.preference for f in steered if f.verdict in verdicts]

    follow, better = [f for f in steered if f.follows], named("better")
    if len(named("not measured")) == len(steered):
        return "Control could not be measured for any steered preference."
    verb = "follows" if len(follow) == 1 else "follow"
    sentence = f"{len(follow)} of {len(steered)} steered preferences {verb} the level that was asked for"
    if better:
        sentence += f"; {listing(better)} clearly better than by prompting alone"
    elif follow:
        sentence += "; a gain over prompting alone is not shown"
    parts = [f"{sentence}."]
    for lead, names in (
        ("Worse than by prompting alone", named("worse")),
        ("Not controlled", named("not controlled")),
        ("Not measured", named("not measured")),
    ):
        if names:
            parts.append(f"{lead}: {listing(names)}.")
    return " ".join(parts)


def _remarks(content: ReportContent) -> list[str]:
    return [
        *_held_out(content),
        *([gave_way_said(content.attack)] if content.attack else []),
        *([hypervolume_said(content.fronts)] if content.fronts else []),
        *_cross_talk(content),
        *([benchmarks_said(content.benchmarks)] if content.benchmarks else []),
        *_overoptimised(content),
        *_missing(content),
    ]


def _held_out(content: ReportContent) -> list[str]:
    held_out, seen = content.after.held_out, content.after.seen_pairs
    if held_out.value is None:
        return ["No held-out combination of levels was measured."]
    return [
        f"Combinations of levels that training never saw: mean absolute error {with_bounds(held_out)}, "
        f"against {with_bounds(seen)} on combinations like those it saw; {overlap_said(held_out, seen)}."
    ]


def _cross_talk(content: ReportContent) -> list[str]:
    """The strongest unwanted movement that is not noise; slopes are in scores per full range of the request."""
    if len(content.preferences) < 2:
        return []
    leaks = [
        (i, j, slope)
        for i, row in content.after.cross_talk.items()
        for j, slope in row.items()
        if i != j and slope.value is not None and not includes_zero(slope)
    ]
    if not leaks:
        return ["No cross-talk between preferences stands out: every off-diagonal interval includes 0 or is undefined."]
    i, j, slope = max(leaks, key=lambda leak: abs(leak[2].value or 0.0))
    return [
        f"Strongest cross-talk of the policy: asking for {i} from its lowest to its highest score moves the score of "
        f"{j} by {with_bounds(slope)} (prompt alone: {with_bounds(content.before.cross_talk[i][j])})."
    ]


def _overoptimised(content: ReportContent) -> list[str]:
    return [
        f"Overoptimisation of {of.preference}: {overoptimisation.said(of)}"
        for of in overoptimisation.watched(content.training)
        if overoptimisation.verdict(of) in ("gamed", "unseen loss")
    ]


def _missing(content: ReportContent) -> list[str]:
    parts = []
    for name, system in (("prompt alone", content.before), ("policy", content.after)):
        missing = sum(c.missing for c in system.preferences.values())
        if missing:
            total = missing + sum(c.answers for c in system.preferences.values())
            parts.append(f"{missing:,} of {total:,} ({name})")
    return [f"Verdicts that the judge could not give, left out of every figure: {listing(parts)}."] if parts else []
