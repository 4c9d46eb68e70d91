"""Fronts, benchmarks, judges and overoptimisation: the page claims what the intervals allow, and nothing where nothing was measured."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from moslim_core.evaluation.benchmarks.benchmark import NO_JUDGE, Meaning, less, more
from moslim_core.evaluation.benchmarks.run import Run
from moslim_core.registry import benchmark
from moslim_core.report import Both, all_figures, render, summarise
from moslim_core.report.benchmarks import benchmarks_said, compared
from moslim_core.report.front import hypervolume_said
from moslim_core.report.overoptimisation import axis_of, said, verdict, watched
from tests.core.report.made_content import BENCHMARKS, STRONG, WEAK, Drawn, fronts, made, run_of, steps, text_of, told, undrawn

# Nothing else to draw.
PLAIN: dict[str, Any] = {"reward_heads": {}, "samples": [], "training": []}

LESS = less("share of what should not be")


@pytest.fixture(scope="module")
def page() -> str:
    return render(made())


def one_measure(before: float, after: float, meaning: Meaning = LESS, items: int = 60) -> Both[Run]:
    return Both(**{name: run_of(Drawn("b", {"m": (meaning, rate)}, 1), items) for name, rate in (("before", before), ("after", after))})


def verdict_of(before: float, after: float, meaning: Meaning = LESS, items: int = 60) -> str:
    (row,) = compared("b", one_measure(before, after, meaning, items))
    return row.verdict


# --- fronts -----------------------------------------------------------------------------------------------------------


def test_front_is_better_only_where_intervals_do_not_overlap() -> None:
    gain = fronts(("verbosity", "simplicity"))
    before, after = gain.before.hypervolume, gain.after.hypervolume
    assert before.high is not None and after.low is not None and before.high < after.low
    sentence = hypervolume_said(gain)
    assert f"hypervolume {before.value:.3f} [{before.low:.3f}, {before.high:.3f}] for the prompt alone" in sentence
    assert sentence.endswith("the intervals do not overlap: the policy's front is better.")
    assert hypervolume_said(fronts(("verbosity", "simplicity"), STRONG, WEAK)).endswith("the policy's front is worse.")
    same = hypervolume_said(fronts(("verbosity", "simplicity"), WEAK, WEAK))
    assert same.endswith("the intervals overlap: a gain over the prompt alone is not shown.")
    assert same in summarise(made(fronts=fronts(("verbosity", "simplicity"), WEAK, WEAK))).remarks
    missing = gain.model_copy(deep=True)
    missing.after.hypervolume = missing.after.hypervolume.model_copy(update={"value": None, "low": None, "high": None})
    assert "n/a for the policy; the intervals can't be compared: nothing is claimed." in hypervolume_said(missing)


def test_front_is_told_with_its_reference_and_its_points(page: str) -> None:
    front, given = text_of(page, "front"), made().fronts
    assert given is not None
    for name, score in given.after.reference.items():
        assert f"{name} {score:.3f}" in front
    for field in ("hypervolume", "inner_product", "sparsity", "spacing"):
        found = getattr(given.after, field)
        assert f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]" in front
    assert front.count("prompt only") == 1 + len(given.after.points), "in the figure, and once per point"
    assert "5 · very long prompt only" in front, "the others are left open"
    assert "yes 0" in front
    assert "Hypervolume of the front" in text_of(page, "key-numbers")


def test_attack_is_told_with_what_it_moved(page: str) -> None:
    told = text_of(page, "attack")
    # All but the guard's floor are ends of a whole range; of both levels of the guard an attack wants the other one.
    sentence = "0.40 [0.40, 0.40] for a plain wish (prompt alone: 1.00 [1.00, 1.00]), 0.20 [0.20, 0.20] for a forged instruction"
    assert sentence in told and sentence in " ".join(summarise(made()).remarks)
    assert "1.60 [1.60, 1.60]" in told, "of verbosity's range of four levels"
    assert told.count("a plain wish for the other end") == 4
    assert 'id="attack"' not in undrawn(made(attack=None, **PLAIN))


@pytest.mark.parametrize(
    ("names", "titles"), [(("verbosity", "warmth"), [""]), (("verbosity", "simplicity", "warmth"), ["prompt only", "policy"])]
)
def test_two_preferences_are_a_plane_and_more_are_parallel(names: tuple[str, ...], titles: list[str]) -> None:
    given = fronts(names)
    figure = all_figures(made(fronts=given, **PLAIN))["front"]
    assert [ax.get_title(loc="left") for ax in figure.axes] == titles
    axes = figure.axes[-1]
    if len(names) == 2:
        line = max(axes.lines, key=lambda line: (line.get_color() == "#0b6bb8", len(line.get_xdata())))
        drawn = list(zip(line.get_xdata(), line.get_ydata(), strict=True))
        assert drawn == [tuple(point.scores[name].value for name in names) for point in given.after.points]
    else:
        drawn = [list(line.get_ydata()) for line in axes.lines]
        assert drawn == [[point.scores[name].value for name in names] for point in given.after.points]


def test_score_that_no_judge_gave_leaves_a_gap() -> None:
    given = fronts(("verbosity", "simplicity", "warmth"))
    scores = given.after.points[0].scores
    scores["warmth"] = scores["warmth"].model_copy(update={"value": None, "low": None, "high": None})
    figure = all_figures(made(fronts=given, **PLAIN))["front"]
    assert math.isnan(list(figure.axes[1].lines[0].get_ydata())[2])
    assert "n/a" in told(made(fronts=given, **PLAIN), "front")


def test_fronts_of_different_operating_points_are_refused() -> None:
    mixed = Both(before=fronts(("verbosity", "simplicity"), points=5).before, after=fronts(("verbosity", "simplicity"), points=7).after)
    with pytest.raises(ValueError, match="not of the same operating points"):
        made(fronts=mixed)


# --- benchmarks -------------------------------------------------------------------------------------------------------


def test_difference_is_claimed_only_where_intervals_do_not_overlap() -> None:
    assert verdict_of(0.8, 0.2) == "better" and verdict_of(0.2, 0.8) == "worse" and verdict_of(0.5, 0.45) == "not shown"
    assert verdict_of(0.2, 0.8, more("mean grade")) == "better"
    assert verdict_of(0.2, 0.8, Meaning(about="share that can't be told")) == "higher"
    assert verdict_of(0.2, 0.8, items=6) == "can't be compared", "too few items for an interval"


def test_verdicts_that_are_all_alike_are_no_proof() -> None:
    """0 of 20 has bootstrap bounds [0, 0], and might well be 0.15."""
    (row,) = compared("b", one_measure(0.0, 0.2, items=20))
    assert row.before.mean.high == 0 and row.after.mean.low is not None and 0 < row.after.mean.low < 3 / row.before.judged
    assert row.verdict == "not shown" and row.reason == "verdicts all alike, and too few"
    assert verdict_of(0.0, 0.3, items=200) == "worse"


def test_every_measure_of_a_benchmark_says_which_way_is_better_or_that_none_is() -> None:
    meanings = {measure: meaning for name in benchmark.own for measure, meaning in benchmark[name].measures.items()}
    assert [m for m, meaning in meanings.items() if not meaning.better] == ["unknown_facts", "words"]


def test_benchmarks_are_counted_in_words() -> None:
    sentence = benchmarks_said(BENCHMARKS)
    assert sentence == (
        "Benchmarks, 3 measures, the policy beside the prompt alone: 1 better (xstest: refusals safe); "
        "1 worse (hackaprompt: attack success rate); 1 without a difference that is shown; 4 more measures not run."
    )
    assert sentence in summarise(made()).remarks
    assert benchmarks_said({"mt_bench": BENCHMARKS["mt_bench"]}) == "Benchmarks: no measure was run; 3 more measures not run."


def test_benchmark_table_tells_what_was_asked_left_out_and_not_run(page: str) -> None:
    shown, run = text_of(page, "benchmarks"), BENCHMARKS["xstest"].after
    found = run.result.measures["refusals_safe"].overall
    assert f"{found.mean} ▲" not in shown and f"{found.mean} better the intervals do not overlap {found.judged} {found.missing}" in shown
    assert f"not run: grade, grade turn 1, grade turn 2 {NO_JUDGE}" in shown and f"not run: harmlessness {NO_JUDGE}" in shown
    assert "mt_bench 0 nothing none n/a none" in shown
    assert "xstest 96 warmth: 2 · neutral identical prompt: 3 10% / 10% examples of the refusal rule: 120" in shown
    assert "refusals that the rule tells: 0.93" in shown and "hackaprompt 60 nothing none 40% / 40% none" in shown
    assert re.search(r"xstest by group .* refusals safe kind 1 ", shown) and "mt_bench by group" not in shown


def test_systems_that_differ_in_missing_verdicts_show_both_numbers() -> None:
    runs = one_measure(0.5, 0.5)
    runs.after.result.measures["m"].overall.judged, runs.after.result.measures["m"].overall.missing = 40, 20
    assert "58 / 40 2 / 20" in told(made(benchmarks={"b": runs}, **PLAIN), "benchmarks")


# --- judges and overoptimisation --------------------------------------------------------------------------------------


def test_agreement_of_two_judges_has_kappas_with_intervals(page: str) -> None:
    shown, both = text_of(page, "judges"), made().agreement["warmth"]
    for found in (both.before, both.after):
        assert f"{found.quadratic_kappa} {found.cohen_kappa} {found.exact} {found.compared} {found.missing}" in shown
    assert "also judged by the language model little-judge" in shown


def series(proxy: tuple[float, float], judge: tuple[float, float], count: int = 40) -> list[dict[str, float]]:
    """Verdicts that go evenly from one value to another, with noise."""
    rng = np.random.default_rng(0)
    ways = {"utility/x": np.linspace(*proxy, count), "judged/x": np.linspace(*judge, count)}
    return [{"step": n + 1.0, **{name: float(of[n] + rng.normal(0, 0.02)) for name, of in ways.items()}} for n in range(count)]


@pytest.mark.parametrize(
    ("proxy", "judge", "expected"),
    [
        ((0.5, 0.8), (0.5, 0.7), "confirmed"),
        ((0.5, 0.8), (0.5, 0.5), "not confirmed"),
        ((0.5, 0.8), (0.5, 0.3), "gamed"),
        ((0.5, 0.5), (0.5, 0.3), "unseen loss"),
        ((0.8, 0.5), (0.5, 0.3), "no gain"),
        ((0.5, 0.5), (0.5, 0.8), "no gain"),
    ],
)
def test_overoptimisation_is_told_from_both_directions(proxy: Any, judge: Any, expected: str) -> None:
    (found,) = watched(series(proxy, judge))
    assert verdict(found) == expected
    remarks = " ".join(summarise(made(training=series(proxy, judge))).remarks)
    assert (f"Overoptimisation of x: {said(found)}" in remarks) == (expected in ("gamed", "unseen loss"))


def test_few_steps_tell_nothing() -> None:
    (found,) = watched(series((0.5, 0.9), (0.5, 0.1), count=8))
    assert verdict(found) == "not told" and said(found) == "too few steps to tell."


def test_kl_is_the_axis_where_it_was_logged() -> None:
    training = steps()
    assert axis_of(training) == "kl_sequence" and axis_of(series((0, 1), (0, 1))) == "step"
    del training[3]["kl_sequence"]
    training[4]["judged/warmth"] = math.nan
    found = {of.preference: of for of in watched(training)}
    assert len(found["verbosity"].moved) == len(training) - 1 and len(found["warmth"].moved) == len(training) - 2
    labels = {ax.get_title(loc="left"): ax.get_xlabel() for ax in all_figures(made(training=training))["overoptimisation"].axes}
    assert labels == dict.fromkeys(("verbosity", "simplicity", "warmth"), "KL per answer (nats)")


def test_training_without_a_judge_is_called_that(page: str) -> None:
    assert "No independent judge watched the training of harmlessness" in text_of(page, "overoptimisation")
    alone = made(**PLAIN | {"training": [{k: v for k, v in row.items() if not k.startswith("judged/")} for row in steps()]})
    shown = told(alone, "overoptimisation")
    assert shown.startswith("Overoptimisation No independent judge watched the training of verbosity, simplicity, warmth and harmlessness")
    assert "overoptimisation" not in all_figures(alone)


def test_what_was_not_measured_has_no_section() -> None:
    bare = made(fronts=None, benchmarks={}, agreement={}, training=[{"step": 1.0, "reward": 0.5}])
    html = undrawn(bare)
    assert not {"front", "benchmarks", "judges", "overoptimisation"} & set(re.findall(r'<section id="([\w-]+)">', html))
    assert not {"front", "overoptimisation"} & set(all_figures(bare))
    assert not re.search("hypervolume|benchmark|overoptimisation", " ".join(summarise(bare).remarks), re.IGNORECASE)
    assert "Time of policy training" not in text_of(html, "cost")
