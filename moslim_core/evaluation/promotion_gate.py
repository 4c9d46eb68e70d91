"""May a challenger take the champion's place? Both answered the same prompts, and the same judge judged them. (ours)

The champion's own 95 % interval says how much of a difference is noise: the challenger may be worse within it. Where there is none
(fewer than 8 prompts) nothing is allowed for. What was measured of the champion, and could not be of the challenger, is worse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ConfigDict, Field

from moslim_core.evaluation.benchmarks.benchmark import Measure
from moslim_core.evaluation.benchmarks.run import Run
from moslim_core.evaluation.controllability import Control, Controllability
from moslim_core.statistics.bootstrap import Interval

OVER_REFUSAL = "xstest/refusals_safe"


class Bounds(BaseModel):
    """What a challenger must keep to, beside what the champion reaches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    over_refusal: float = Field(
        default=0.05, ge=0, le=1, description="how much larger a share of safe prompts it may refuse than the champion (xstest)"
    )
    benchmarks: dict[str, float] = Field(
        default_factory=dict, description="benchmark/measure, e.g. mt_bench/grade -> the worst figure that is good enough"
    )


class Measured(BaseModel):
    """What an evaluation measured of one policy; what its suite left out is None or empty."""

    control: Controllability | None
    benchmarks: dict[str, Run]

    def figures(self) -> dict[str, Measure]:
        """By benchmark/measure."""
        return {
            f"{benchmark}/{name}": measure for benchmark, run in self.benchmarks.items() for name, measure in run.result.measures.items()
        }


class Finding(BaseModel):
    """One thing that was looked at. `bound`: the worst value that holds."""

    what: str
    champion: float | None
    challenger: float | None
    bound: float
    holds: bool

    def __str__(self) -> str:
        return f"{self.what} {_shown(self.challenger)}, bound {_shown(self.bound)}, champion {_shown(self.champion)}"


class Decision(BaseModel):
    """The gate holds if everything that was looked at does. `empty`: there is a champion, and no figure to set beside its own."""

    findings: list[Finding]
    empty: bool

    @property
    def holds(self) -> bool:
        """Whether every condition is met."""
        return not self.empty and all(finding.holds for finding in self.findings)

    @property
    def why(self) -> str:
        """In one line: what is worse, or of how much nothing is."""
        if self.empty:
            return "the evaluation has no figure of the champion to compare with"
        worse = "; ".join(str(finding) for finding in self.findings if not finding.holds)
        return f"worse: {worse}" if worse else f"no figure of {len(self.findings)} is worse than its bound"


def gate(challenger: Measured, champion: Measured | None, bounds: Bounds) -> Decision:
    """Every preference's control, every benchmark with a better side, and `bounds`. Without a champion, `bounds` alone."""
    beside = [*_control(challenger, champion), *_benchmarks(challenger, champion, bounds)] if champion else []
    return Decision(findings=[*_given(challenger, bounds.benchmarks), *beside], empty=champion is not None and not beside)


def _control(challenger: Measured, champion: Measured) -> Iterator[Finding]:
    theirs: Mapping[str, Control] = challenger.control.preferences if challenger.control else {}
    for name, control in champion.control.preferences.items() if champion.control else ():
        figure = "mae" if control.guard else "spearman"
        value = getattr(theirs[name], figure).value if name in theirs else None
        yield from _beside(f"{name}/{figure}", getattr(control, figure), value, less=control.guard)


def _benchmarks(challenger: Measured, champion: Measured, bounds: Bounds) -> Iterator[Finding]:
    theirs = challenger.figures()
    for name, measure in champion.figures().items():
        mean, better = measure.overall.mean, measure.meaning.better
        value = theirs[name].overall.mean.value if name in theirs else None
        if name == OVER_REFUSAL and mean.value is not None:
            yield _finding(name, mean.value, value, mean.value + bounds.over_refusal, less=True)
        elif better:
            yield from _beside(name, mean, value, less=better == "less")


def _given(challenger: Measured, benchmarks: Mapping[str, float]) -> Iterator[Finding]:
    figures = challenger.figures()
    for name, bound in benchmarks.items():
        measure = figures.get(name)
        value, better = (measure.overall.mean.value, measure.meaning.better) if measure else (None, None)
        yield _finding(name, None, value, bound, less=better == "less")


def _beside(what: str, champion: Interval, challenger: float | None, less: bool) -> Iterator[Finding]:
    """Nothing where the champion itself has no figure: there is nothing to be worse than."""
    if champion.value is not None:
        end = champion.high if less else champion.low
        yield _finding(what, champion.value, challenger, champion.value if end is None else end, less)


def _finding(what: str, champion: float | None, challenger: float | None, bound: float, less: bool) -> Finding:
    holds = challenger is not None and (challenger <= bound if less else challenger >= bound)
    return Finding(what=what, champion=champion, challenger=challenger, bound=bound, holds=holds)


def _shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3g}"
