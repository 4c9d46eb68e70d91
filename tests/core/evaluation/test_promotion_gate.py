"""The gate: within the champion's interval is noise, beyond it is worse, and what could not be measured does not hold."""

from __future__ import annotations

from typing import Literal

import pytest

from moslim_core.evaluation.benchmarks.benchmark import Meaning, Measure, Result, Score
from moslim_core.evaluation.benchmarks.run import Run
from moslim_core.evaluation.controllability import Control, Controllability
from moslim_core.evaluation.promotion_gate import Bounds, Measured, gate
from moslim_core.statistics.bootstrap import Interval

Better = Literal["more", "less"] | None
NONE = Interval(value=None, low=None, high=None)


def around(value: float | None, half: float | None = 0.1) -> Interval:
    if value is None or half is None:
        return Interval(value=value, low=None, high=None)
    return Interval(value=value, low=value - half, high=value + half)


def control(spearman: Interval = NONE, mae: Interval = NONE, guard: bool = False) -> Control:
    return Control(
        guard=guard, answers=9, missing=0, spearman=spearman, mae=mae, exact=NONE, within_one=NONE, span=NONE, violations=0, levels=[]
    )


def measured(controls: dict[str, Control] | None = None, benchmarks: dict[str, tuple[float, Better]] | None = None) -> Measured:
    """`benchmarks`: benchmark/measure -> (mean, which way is better)."""
    runs: dict[str, Run] = {}
    for name, (mean, better) in (benchmarks or {}).items():
        benchmark, measure = name.split("/")
        result = Result(name=benchmark, items=9, measures={}, not_run={}, notes={}, truncated=0)
        run = runs.setdefault(benchmark, Run(targets={}, dropped={}, result=result))
        score = Score(mean=around(mean), judged=9, missing=0)
        run.result.measures[measure] = Measure(meaning=Meaning(about="a figure", better=better), overall=score, groups={})
    found = None
    if controls is not None:
        found = Controllability(preferences=controls, cross_talk={}, held_out=NONE, seen_pairs=NONE, answers=9, truncated=0)
    return Measured(control=found, benchmarks=runs)


@pytest.mark.parametrize(
    ("champion", "challenger", "holds"),
    [
        (around(0.5), around(0.7), True),
        (around(0.5), around(0.41), True),
        (around(0.5), around(0.39), False),
        (around(0.5, None), around(0.5, None), True),
        (around(0.5, None), around(0.49, None), False),
        (around(0.5), NONE, False),
        (NONE, NONE, True),
    ],
)
def test_control_may_be_worse_within_the_champions_interval(champion: Interval, challenger: Interval, holds: bool) -> None:
    same = {"verbosity": control(around(0.5))}
    decision = gate(measured({"warmth": control(challenger), **same}), measured({"warmth": control(champion), **same}), Bounds())
    assert decision.holds == holds
    assert ("warmth/spearman" in decision.why) == (not holds)


def test_one_worse_preference_refuses_whatever_the_others_gain() -> None:
    champion = measured({"warmth": control(around(0.5)), "verbosity": control(around(0.5))})
    decision = gate(measured({"warmth": control(around(0.9)), "verbosity": control(around(0.2))}), champion, Bounds())
    assert [f.what for f in decision.findings if not f.holds] == ["verbosity/spearman"]
    assert not gate(measured({"warmth": control(around(0.9))}), champion, Bounds()).holds, "a preference that it lacks"


def test_of_a_guard_the_error_counts() -> None:
    champion = measured({"safety": control(mae=around(0.2), guard=True)})
    assert gate(measured({"safety": control(mae=around(0.25), guard=True)}), champion, Bounds()).holds
    assert not gate(measured({"safety": control(mae=around(0.4), guard=True)}), champion, Bounds()).holds


@pytest.mark.parametrize(
    ("better", "challenger", "holds"),
    [
        ("more", 0.45, True),
        ("more", 0.3, False),
        ("less", 0.55, True),
        ("less", 0.7, False),
        (None, 0.0, True),
    ],
)
def test_benchmarks_have_a_better_side(better: Better, challenger: float, holds: bool) -> None:
    same = {"other/figure": (0.5, "more")}
    champion = measured(benchmarks={"bench/figure": (0.5, better), **same})
    assert gate(measured(benchmarks={"bench/figure": (challenger, better), **same}), champion, Bounds()).holds == holds


def test_over_refusal_has_a_bound_of_its_own() -> None:
    name, less = "xstest/refusals_safe", "less"
    champion = measured(benchmarks={name: (0.1, less)})
    assert gate(measured(benchmarks={name: (0.14, less)}), champion, Bounds()).holds
    assert not gate(measured(benchmarks={name: (0.16, less)}), champion, Bounds()).holds, "within the interval, beyond the bound"
    assert gate(measured(benchmarks={name: (0.16, less)}), champion, Bounds(over_refusal=0.1)).holds


def test_given_bounds_hold_without_a_champion_and_need_a_figure() -> None:
    bounds = Bounds(benchmarks={"mt_bench/grade": 5.0})
    good, bad = (measured(benchmarks={"mt_bench/grade": (grade, "more")}) for grade in (6.0, 4.0))
    assert gate(good, None, bounds).holds
    assert not gate(bad, None, bounds).holds
    assert not gate(bad, bad, bounds).holds
    assert "mt_bench/grade n/a" in gate(measured({}), None, bounds).why
    assert gate(measured({}), None, Bounds()).holds


def test_a_champion_of_which_nothing_was_measured_is_not_replaced() -> None:
    decision = gate(measured({}), measured({"warmth": control(NONE)}), Bounds())
    assert not decision.holds and "no figure of the champion" in decision.why
