"""Means over runs that share their prompts: their figures by hand, and how sure they are."""

from __future__ import annotations

import numpy as np
import pytest

from moslim_core.evaluation.controllability import Obtained, controllability
from moslim_core.evaluation.fronts import FIGURES, front, score_table, simplex_grid
from moslim_core.evaluation.pooling import control, fronts, joint
from moslim_core.preferences import PreferenceSchema, Targets
from moslim_core.statistics.bootstrap import Interval

SCHEMA = PreferenceSchema.model_validate([{"name": "length", "levels": ["a", "b", "c"]}, {"name": "warmth", "levels": ["a", "b", "c"]}])
LEVELS = (1, 2, 3)


def answer(prompt: int, targets: dict[str, int], **levels: float) -> Obtained:
    return Obtained(prompt=prompt, targets=targets, text="a", tokens=1, truncated=False, levels=levels)


def run(seed: int, prompts: int = 24, per_prompt: float = 0.0) -> list[Obtained]:
    """Lengths that follow requests with noise of each answer and, of variance `per_prompt`, of each prompt, the same in all runs."""
    noise, shared = np.random.default_rng(seed), np.random.default_rng(99).normal(0, per_prompt**0.5, prompts)
    return [
        answer(p, {"length": level}, length=level + shared[p] * level + noise.normal(0, 0.5), warmth=2.0)
        for p in range(prompts)
        for level in LEVELS
    ]


def width(found: Interval) -> float:
    assert found.low is not None and found.high is not None
    return found.high - found.low


def test_the_mean_is_that_of_the_runs_own_figures() -> None:
    runs = [run(seed) for seed in range(3)]
    own = [controllability(rows, SCHEMA, [], 100, 0).preferences["length"] for rows in runs]
    found = control(runs, SCHEMA, 100)
    for figure in ("spearman", "mae", "span"):
        assert found[f"length/{figure}"].value == pytest.approx(np.mean([getattr(of, figure).value for of in own]))
    assert found["warmth/spearman"].value is None, "nothing was asked of it"


def test_spread_is_that_of_answers_to_one_request() -> None:
    """Levels 1 and 2 under a request for 1, 3 and 3 under one for 3: 0.5 and 0, whatever way the means go."""
    rows = [answer(p, {"length": level}, length=got) for p, level, got in ((0, 1, 1), (1, 1, 2), (0, 3, 3), (1, 3, 3))]
    assert control([rows], SCHEMA, 100)["length/spread"].value == 0.25


def test_a_run_said_twice_is_as_sure_as_once() -> None:
    once, twice = control([run(0)], SCHEMA, 300), control([run(0), run(0)], SCHEMA, 300)
    assert twice["length/mae"] == once["length/mae"]


def test_other_runs_add_as_much_as_prompts_leave_open() -> None:
    """Where only answers differ three runs are nearly three times the data; where prompts do, they are hardly more than one."""
    free = width(control([run(s) for s in range(3)], SCHEMA, 500)["length/span"]) / width(control([run(0)], SCHEMA, 500)["length/span"])
    bound = [run(s, per_prompt=4.0) for s in range(3)]
    tied = width(control(bound, SCHEMA, 500)["length/span"]) / width(control(bound[:1], SCHEMA, 500)["length/span"])
    assert free < 0.75 and tied > 0.9


def test_requests_for_several_preferences_count_by_how_many_they_name() -> None:
    follows = [answer(p, {"length": a, "warmth": b}, length=a, warmth=4 - b) for p in range(10) for a in LEVELS for b in LEVELS]
    heeds_one = [answer(p, {"length": a, "warmth": 1 + p % 3}, length=a, warmth=1 + p % 3) for p in range(10) for a in LEVELS]
    alone = [answer(p, {"length": 1}, length=3) for p in range(10)]
    found = joint([follows + alone, heeds_one], SCHEMA, 100)
    # Of the first run length 1 and warmth -1, of the second 1 and 1.
    assert list(found) == ["two at once/spearman"] and found["two at once/spearman"].value == pytest.approx(0.5)
    assert joint([alone], SCHEMA, 100) == {}


def test_a_run_whose_answers_are_all_alike_does_not_drop_out_of_the_mean() -> None:
    """It follows nothing: without it the mean would be that of the runs that do."""
    alike = [answer(p, {"length": level}, length=2.0) for p in range(10) for level in LEVELS]
    follows = [answer(p, {"length": level}, length=level) for p in range(10) for level in LEVELS]
    assert control([follows, alike], SCHEMA, 100)["length/spearman"].value == pytest.approx(0.5)
    found = controllability(alike, SCHEMA, [], 100, 0)
    assert found.preferences["length"].spearman.value is None and found.following["length/spearman"].value == 0
    assert found.following["warmth/spearman"].value is None, "nothing was asked of it"
    one = [answer(p, {"length": 1, "warmth": b}, length=2.0, warmth=b) for p in range(10) for b in LEVELS]
    every = [answer(p, {"length": a, "warmth": b}, length=2.0, warmth=b) for p in range(10) for a in LEVELS for b in LEVELS]
    assert joint([one + every], SCHEMA, 100)["two at once/spearman"].value == pytest.approx(0.5)


def test_fronts_of_several_runs() -> None:
    weights = simplex_grid(2, 3)
    rng = np.random.default_rng(3)
    made = []
    for reference in ([0.1, 0.1], [0.2, 0.0]):
        points = [[answer(p, {}, length=1 + 2 * rng.random(), warmth=1 + 2 * rng.random()) for p in range(12)] for _ in weights]
        tables = [score_table(of, SCHEMA) for of in points]
        made.append((front(tables, weights, [Targets()] * 3, SCHEMA.names, np.array(reference), 50, 0), points))
    found = fronts(made, SCHEMA, 200)
    for figure in FIGURES:
        assert found[f"front/{figure}"].value == pytest.approx(np.mean([getattr(of, figure).value for of, _ in made]))
    assert width(found["front/inner_product"]) > 0
    assert fronts(made[:1], SCHEMA, 50)["front/hypervolume"] == made[0][0].hypervolume, "of one run its own"


def test_cross_talk_is_what_a_request_moves_that_was_left_open() -> None:
    """Warmth goes up by half of what length is asked for in one run and down by it in the other; length stays where it is."""
    half = [
        [answer(p, {"length": level}, length=2.0, warmth=2.0 + sign * (level - 2) / 2) for p in range(10) for level in LEVELS]
        + [answer(p, {"warmth": level}, length=2.0, warmth=float(level)) for p in range(10) for level in LEVELS]
        for sign in (1, -1)
    ]
    found = control(half, SCHEMA, 50)["left open/cross-talk"]
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
    both = [answer(p, {"length": 3, "warmth": 3}, length=1.0, warmth=1.0) for p in range(10)]
    assert control([half[0] + both], SCHEMA, 50)["left open/cross-talk"].value == pytest.approx(0.25), "asked for, not left open"


def test_cross_talk_of_one_run_is_that_of_its_slopes() -> None:
    rows = run(0) + [answer(p, {"warmth": 1 + p % 3}, length=1.0 + (p % 3) / 2) for p in range(24)]
    of_slopes = controllability(rows, SCHEMA, [], 50, 0).left_open
    assert of_slopes == pytest.approx(control([rows], SCHEMA, 50)["left open/cross-talk"].value) and of_slopes > 0.01
    assert controllability([], SCHEMA, [], 50, 0).left_open is None
