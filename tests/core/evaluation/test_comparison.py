"""Means over seeds with t intervals, and differences paired by seed, against hand computation."""

from __future__ import annotations

import math

import pytest

from moslim_core.evaluation.comparison import Comparison, Figure, Given, Measured, SamplePrompt, SampleRequest, compare, t_interval
from moslim_core.preferences import PreferenceSchema
from moslim_core.report.comparison import render_comparison
from moslim_core.report.leaders import leaders, verdict
from moslim_core.statistics.bootstrap import Interval


def test_t_interval() -> None:
    found = t_interval([1.0, 2.0, 3.0])
    # t(0.975, 2) = 4.302653, the standard deviation is 1.
    assert found.value == 2
    assert (found.low, found.high) == (pytest.approx(2 - 4.302653 / math.sqrt(3)), pytest.approx(2 + 4.302653 / math.sqrt(3)))
    assert t_interval([1.0, 2.0]).low is None, "two seeds show nothing"
    assert t_interval([]).value is None


def runs() -> list[Measured]:
    values = {"a": (0.1, 0.5, 0.9), "b": (0.2, 0.6, 1.0)}
    return [
        Measured(variant=v, seed=seed, figures={"x/auc": value, **({"y/auc": 1.0} if v == "a" else {})}, seconds=10.0 * (1 + seed))
        for v, of in values.items()
        for seed, value in enumerate(of)
    ]


def test_differences_are_paired_by_seed() -> None:
    found = compare("reward.head", runs())
    assert (found.variants, found.seeds, found.seconds) == (["a", "b"], [0, 1, 2], {"a": 20.0, "b": 20.0})
    first, second = found.figures["x/auc"]["a"], found.figures["x/auc"]["b"]
    assert first.difference is None and second.difference is not None
    # Each seed is 0.1 better: sure, though the means' own intervals overlap.
    assert second.difference.value == pytest.approx(0.1)
    assert second.difference.low == pytest.approx(0.1)
    assert first.mean.high is not None and second.mean.low is not None and first.mean.high > second.mean.low


def test_bounds_stay_within_what_a_figure_can_be() -> None:
    def measured(figure: str, values: tuple[float, ...]) -> Interval:
        runs = [Measured(variant="a", seed=n, figures={figure: value}, seconds=1) for n, value in enumerate(values)]
        return compare("key", runs).figures[figure]["a"].mean

    wide = (0.05, 0.4, 0.9)
    free = t_interval(wide)
    assert free.low is not None and free.low < 0 and free.high is not None and free.high > 1
    accuracy, correlation, unknown = (measured(name, wide) for name in ("x/accuracy", "x/spearman", "x/unheard-of"))
    assert (accuracy.low, accuracy.high) == (0.0, 1.0)
    assert (correlation.low, correlation.high) == (free.low, 1.0)
    assert (unknown.low, unknown.high) == (free.low, free.high)
    assert measured("front/hypervolume", wide).low == 0.0


def at(**means: tuple[float, float, float]) -> dict[str, Figure]:
    return {
        name: Figure(by_seed={0: value}, mean=Interval(value=value, low=low, high=high), difference=None)
        for name, (value, low, high) in means.items()
    }


def test_who_leads_is_told_with_who_is_not_shown_to_be_behind() -> None:
    figures = {
        "front/hypervolume": at(a=(0.04, 0.03, 0.05), b=(0.02, 0.01, 0.035), c=(0.01, 0.0, 0.02)),
        "left open/cross-talk": at(a=(0.3, 0.25, 0.4), b=(0.1, 0.05, 0.2), c=(0.5, 0.45, 0.6)),
        "front/spacing": at(a=(0.1, 0.0, 0.2), b=(0.2, 0.1, 0.3), c=(0.2, 0.1, 0.3)),
        "x/spearman": at(a=(0.5, 0.4, 0.6), b=(0.5, 0.4, 0.6), c=(0.5, 0.4, 0.6)),
    }
    figures["truncated"] = {name: f.model_copy(update={"mean": Interval(value=n, low=None, high=None)}) for n, (name, f) in
                            enumerate(figures["x/spearman"].items())}  # fmt: skip
    made = Comparison(key="systems", variants=["a", "b", "c"], seeds=[0], figures=figures, seconds=dict.fromkeys("abc", 1.0),
        runs=[Measured(variant=v, seed=0, figures={}, seconds=1.0) for v in "abc"])  # fmt: skip
    found = {of.figure: of for of in leaders(made)}
    assert {name: (of.variant, of.beside) for name, of in found.items()} == {
        "front/hypervolume": ("a", ["b"]), "left open/cross-talk": ("b", []), "truncated": ("a", None)
    }  # fmt: skip
    assert found["front/hypervolume"].sentence == "Highest hypervolume: a, 0.040 [0.030, 0.050]; not shown to be beyond b."
    assert found["left open/cross-talk"].sentence == "Lowest cross-talk: b, 0.10 [0.05, 0.20], beyond all others."
    assert found["truncated"].sentence == "Lowest cut off: a, 0.00; without intervals a lead shows nothing."
    # Of the two figures with intervals a is not behind by one, b by none, c by both.
    said = "Best, or not shown to be behind the best: b by 2 of 2 figures, a by 1, c by none."
    assert verdict(list(found.values()), made.variants) == said and said in render_comparison(made)
    assert verdict([found["truncated"]], made.variants) == ""
    # One that could not be measured is not shown to be behind.
    unknown = Figure(by_seed={}, mean=Interval(value=None, low=None, high=None), difference=None)
    errors = {"x/mae": at(a=(0.5, 0.4, 0.6), b=(0.9, 0.8, 1.0)) | {"c": unknown}}
    (also,) = leaders(made.model_copy(update={"figures": errors}))
    assert (also.variant, also.beside) == ("a", ["c"])
    # While seeds are missing of some, intervals are of two kinds.
    partial = made.model_copy(update={"missing": "Not finished: 3 of 9 are here.", "seeds": [0, 1]})
    assert leaders(partial) == []
    page = render_comparison(made.model_copy(update={"missing": "Not finished: 3 of 9 are here."}))
    assert found["left open/cross-talk"].sentence in page and page.index("Not finished") < page.index("Who leads by each figure")
    assert "Not finished" not in render_comparison(made)


def test_what_a_variant_has_not_is_no_number() -> None:
    found = compare("reward.head", runs()).figures["y/auc"]
    assert found["b"].mean.value is None and found["b"].difference is not None and found["b"].difference.value is None


def test_page_has_every_figure_and_no_resource_from_elsewhere() -> None:
    page = render_comparison(compare("reward.<head>", runs()))
    assert "reward.&lt;head&gt;" in page and "area under the ROC curve of x ↑" in page and "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page and "<script" not in page
    assert page == render_comparison(compare("reward.<head>", runs()))


def test_words_and_samples_come_before_figures() -> None:
    schema = PreferenceSchema.model_validate([{"name": "x", "levels": ["low", "high"]}])
    request = SampleRequest(preference="x", level=2, answers={"a": Given(text="Yes, <b>you</b> may.", obtained=2)})
    sample = SamplePrompt(prompt="May I?", seed=0, preferences=schema, requests=[request.model_copy(update={"level": 1}), request])
    page = render_comparison(compare("reward.head", runs(), about={"a": "by softmax", "z": "no row"}, sample=sample))
    order = ["Values of reward.head", "By softmax", "May I?", "Yes, &lt;b&gt;you&lt;/b&gt; may.", "no answer", "<svg", "<h2>Figures"]
    assert [page.index(of) for of in order] == sorted(page.index(of) for of in order)
    assert 'class="badge hit">obtained 2 · high' in page and 'class="badge near">obtained 2 · high' in page and "no row" not in page


def test_many_variants_stand_below_one_another() -> None:
    few, many = (
        [Measured(variant=f"v{n}", seed=0, figures={"x/auc": n / 10, "same": 1.0}, seconds=1, costs={"policies": n}) for n in range(count)]
        for count in (3, 9)
    )
    across, down = (render_comparison(compare("key", runs)) for runs in (few, many))
    assert '<th scope="row">area under the ROC curve of x ↑</th>' in across and '<th scope="row">v2</th>' not in across
    assert '<th scope="row">v8</th>' in down and '<th scope="row">area under' not in down and "<h2>Costs</h2>" in down
    assert all(page.count("same") == 1 for page in (across, down)), "in the table, and no picture of what is alike in all"


def test_one_seed_has_the_intervals_over_its_prompts() -> None:
    over = {"x/mae": Interval(value=0.5, low=0.4, high=0.6)}
    one = Measured(variant="a", seed=0, figures={"x/mae": 0.5, "x/ece": 0.1}, seconds=1)
    found = compare("key", [one], pooled={"a": over})
    assert found.figures["x/mae"]["a"].mean == over["x/mae"] and found.intervals == "prompts"
    assert found.figures["x/ece"]["a"].mean.low is None
    # Seeds, where there are more, have the say.
    two = compare("key", [one, one.model_copy(update={"seed": 1})], pooled={"a": over})
    assert two.figures["x/mae"]["a"].mean.low is None and two.intervals == "seeds"
    assert two.figures["x/mae"]["a"].over_prompts == over["x/mae"]
    assert two.figures["x/ece"]["a"].over_prompts is None
    assert "over prompts 0.50" in render_comparison(two) and "over prompts 0.50" not in render_comparison(found)
