"""Public benchmarks as the page shows them: each measure of both systems, and in words what is shown between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from moslim_core.evaluation.benchmarks.benchmark import Meaning, Score
from moslim_core.evaluation.benchmarks.run import Run
from moslim_core.report.content import Both
from moslim_core.report.differences import difference, overlap_said
from moslim_core.report.wording import counted, listing
from moslim_core.statistics.bootstrap import Interval

Verdict = Literal["better", "worse", "higher", "lower", "not shown", "can't be compared"]


class ScoreChange(NamedTuple):
    """One measure of one benchmark, and why the verdict is what it is; `group` is "" for all items."""

    benchmark: str
    measure: str
    meaning: Meaning
    group: str
    before: Score
    after: Score
    verdict: Verdict
    reason: str


def compared(benchmark: str, runs: Both[Run]) -> list[ScoreChange]:
    """Of all items."""
    before, after = runs.before.result.measures, runs.after.result.measures
    return [_compared(benchmark, m, of.meaning, "", before[m].overall, of.overall) for m, of in after.items() if m in before]


def by_group(benchmark: str, runs: Both[Run]) -> list[ScoreChange]:
    """Of each category, level or type of items; nothing where a measure has but one."""
    before, after = runs.before.result.measures, runs.after.result.measures
    return [
        _compared(benchmark, m, of.meaning, group, before[m].groups[group], score)
        for m, of in after.items()
        if m in before and len(of.groups) > 1
        for group, score in of.groups.items()
        if group in before[m].groups
    ]


def not_run(runs: Both[Run]) -> dict[str, list[str]]:
    """Reason -> the measures that were not run because of it."""
    reasons: dict[str, list[str]] = {}
    for measure, reason in {**runs.before.result.not_run, **runs.after.result.not_run}.items():
        reasons.setdefault(reason, []).append(measure)
    return reasons


def benchmarks_said(benchmarks: dict[str, Both[Run]]) -> str:
    """One sentence: how many measures got better, worse or neither, and which."""
    rows = [row for name, runs in benchmarks.items() for row in compared(name, runs)]
    missed = sum(len(measures) for runs in benchmarks.values() for measures in not_run(runs).values())
    after = f"; {counted(missed, 'more measure')} not run" if missed else ""
    if not rows:
        return f"Benchmarks: no measure was run{after}."
    parts = [_part(rows, verdict, words) for verdict, words in _WORDS.items()]
    return f"Benchmarks, {counted(len(rows), 'measure')}, the policy beside the prompt alone: {'; '.join(filter(None, parts))}{after}."


_WORDS: dict[Verdict, str] = {
    "better": "better",
    "worse": "worse",
    "higher": "higher, neither way being better",
    "lower": "lower, neither way being better",
    "not shown": "without a difference that is shown",
    "can't be compared": "without intervals to compare",
}


def _part(rows: Sequence[ScoreChange], verdict: Verdict, words: str) -> str:
    of = [f"{row.benchmark}: {row.measure}".replace("_", " ") for row in rows if row.verdict == verdict]
    if not of:
        return ""
    # What moved is named; of what did not, the number says enough.
    return f"{len(of)} {words}" + (f" ({listing(of)})" if verdict in ("better", "worse", "higher", "lower") else "")


def _compared(benchmark: str, measure: str, meaning: Meaning, group: str, before: Score, after: Score) -> ScoreChange:
    moved = difference(_claimed(before), _claimed(after))
    verdict: Verdict = moved
    if meaning.better and moved in ("higher", "lower"):
        verdict = "better" if moved == ("higher" if meaning.better == "more" else "lower") else "worse"
    shown = overlap_said(before.mean, after.mean)
    reason = shown if moved == difference(before.mean, after.mean) else "verdicts all alike, and too few"
    return ScoreChange(benchmark, measure, meaning, group, before, after, verdict, reason)


def _claimed(score: Score) -> Interval:
    """The interval that a claim rests on. Of a share whose verdicts are all alike resampling finds no spread, however few they are:

    then the rule of three, 3 / n, bounds what was not seen (Hanley & Lippman-Hand 1983).
    """
    mean = score.mean
    if mean.value not in (0.0, 1.0) or mean.low is None or mean.low != mean.high:
        return mean
    unseen = 3 / score.judged
    return Interval(value=mean.value, low=max(0.0, mean.value - unseen), high=min(1.0, mean.value + unseen))
