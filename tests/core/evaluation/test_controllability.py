"""docs/method.md section 5 on answers whose control is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats

from moslim_core.evaluation.controllability import Obtained, controllability, slope, span
from moslim_core.preferences import PreferenceSchema, Targets
from moslim_core.statistics.agreement import spearman

SCHEMA = PreferenceSchema.model_validate(
    [
        {"name": "length", "levels": ["a", "b", "c", "d", "e"]},
        {"name": "warmth", "levels": ["a", "b", "c"], "direction": "lower_is_better"},
        {"name": "harm", "levels": ["harmful", "harmless"], "floor": 2},
    ]
)


def row(targets: dict[str, int], prompt: int = 0, words: int = 3, truncated: bool = False, **levels: float) -> Obtained:
    return Obtained(prompt=prompt, targets=targets, text="w " * words, tokens=words, truncated=truncated, levels=levels)


def measured(rows: list[Obtained], held_out: list[Targets] | None = None) -> Any:
    return controllability(rows, SCHEMA, held_out or [], bootstrap=100, seed=0)


def test_spearman_is_that_of_scipy_and_pools_all_answers() -> None:
    rng = np.random.default_rng(0)
    requested = rng.integers(1, 6, 200)
    for noise in (0, 1, 4):
        obtained = np.clip(np.rint(requested + rng.normal(0, noise, 200)), 1, 5)
        assert spearman(requested, obtained) == pytest.approx(scipy.stats.spearmanr(requested, obtained).statistic)
    assert np.isnan(spearman(requested, np.ones(200)))
    # Level means that rise perfectly over noisy answers: their correlation is 1, that of the answers is not.
    requested, obtained = np.repeat([1, 2], 4), np.array([1, 1, 1, 2, 2, 1, 2, 1])
    assert spearman(requested, obtained) == pytest.approx(scipy.stats.spearmanr(requested, obtained).statistic)
    assert spearman(requested, obtained) < 0.3


def test_slope_and_span() -> None:
    # x - mean: -1, 0, 1; y - mean: -2, 1, 1: slope (2 + 0 + 1) / 2.
    assert slope(np.array([1.0, 2, 3]), np.array([0.0, 3, 3])) == pytest.approx(1.5)
    assert np.isnan(slope(np.ones(3), np.arange(3.0)))
    requested, obtained = np.array([1, 1, 3, 3, 2]), np.array([1.0, 2, 2, 3, 9])
    assert span(requested, obtained, 1, 3) == pytest.approx(2.5 - 1.5)
    assert np.isnan(span(requested, obtained, 1, 4))


def test_figures_of_a_preference() -> None:
    # Obtained for requests 1..5: means 1, 3, 2, 5, 4 -> two falls. Errors: 0, 1, 1, 1, 1; 1.4 rounds to 1, is off by 0.4.
    rows = [row({"length": r}, prompt=p, length=o) for p in (0, 1) for r, o in zip((1, 2, 3, 4, 5), (1, 3, 2, 5, 4), strict=True)]
    rows += [row({"length": 1}, prompt=2, words=7, length=1.4), row({"length": 1}, prompt=2, length=0.6)]
    found = measured(rows).preferences["length"]
    assert not found.guard
    assert (found.answers, found.missing, found.violations) == (12, 0, 2)
    assert found.mae.value == pytest.approx((8 + 0.8) / 12)
    assert found.exact.value == pytest.approx(4 / 12)
    assert found.within_one.value == pytest.approx(1)
    assert found.span.value == pytest.approx(4 - 1)
    assert [m.obtained.value for m in found.levels] == pytest.approx([1, 3, 2, 5, 4])
    assert [m.answers for m in found.levels] == [4, 2, 2, 2, 2]
    assert found.levels[0].words == pytest.approx(4)


def test_what_the_judge_could_not_tell_is_counted_and_never_scored() -> None:
    judged = [row({"length": r}, prompt=r, length=r) for r in (1, 2, 3, 4, 5)]
    untold = [row({"length": 1}, prompt=9), row({"length": 5}, prompt=9, warmth=2)]
    with_gaps, without = measured(judged + untold), measured(judged)
    assert with_gaps.preferences["length"].missing == 2
    assert with_gaps.preferences["length"].model_copy(update={"missing": 0}) == without.preferences["length"]
    assert with_gaps.preferences["length"].mae.value == 0
    assert with_gaps.preferences["warmth"].mae.value is None


def test_guard_has_levels_but_no_control() -> None:
    rows = [row({"harm": 2}, prompt=p, harm=2 - (p == 0)) for p in range(10)]
    found = measured(rows)
    guard = found.preferences["harm"]
    assert guard.guard
    assert [(m.level, m.obtained.value) for m in guard.levels] == [(2, pytest.approx(1.9))]
    assert guard.levels[0].obtained.low < 1.9 < guard.levels[0].obtained.high
    assert guard.spearman.value is None
    assert guard.span.value is None
    assert found.following["harm/mae"] == guard.mae and guard.mae.value == pytest.approx(0.1)
    assert set(found.following) == {"length/spearman", "warmth/spearman", "harm/mae"}
    assert set(found.cross_talk) == {"length", "warmth"}
    assert set(found.cross_talk["length"]) == {"length", "warmth", "harm"}


def test_cross_talk_is_the_slope_of_scores() -> None:
    # Lengths are obtained as asked: slope 1. Warmth level 1 (score 1, lower is better) at length 1, level 3 (score 0) at
    # length 5: slope -1. Harm does not move: 0.
    rows = [row({"length": r}, prompt=r, length=r, warmth=w, harm=2) for r, w in ((1, 1), (3, 2), (5, 3))]
    # Joint requests, correlated on purpose, must not count.
    rows += [row({"length": 1, "warmth": 3}, prompt=p, length=5, warmth=3, harm=1) for p in range(5)]
    found = measured(rows).cross_talk
    assert found["length"]["length"].value == pytest.approx(1)
    assert found["length"]["warmth"].value == pytest.approx(-1)
    assert found["length"]["harm"].value == pytest.approx(0)
    # Warmth was never requested alone; in the joint requests it was constant.
    assert found["warmth"]["length"].value is None


def test_held_out_combinations_are_compared_with_seen_ones() -> None:
    held_out = [Targets({"length": 1, "warmth": 3})]
    rows = [
        row({"length": 1, "warmth": 3}, length=2, warmth=1),  # errors 1 and 2
        row({"length": 1, "warmth": 2, "harm": 2}, length=1, warmth=3, harm=1),  # errors 0 and 1; a guard is no control
        row({"length": 2, "warmth": 2}, length=2),  # error 0; warmth was not told
        row({"length": 5}, length=1),  # alone: neither
    ]
    found = measured(rows, held_out)
    assert found.held_out.value == pytest.approx(1.5)
    assert found.seen_pairs.value == pytest.approx(1 / 3)


def test_truncated_share_and_no_answers_at_all() -> None:
    rows = [row({"length": 1}, truncated=t, length=1) for t in (True, False, False, False)]
    assert measured(rows).truncated == 0.25
    assert measured(rows).off_topic is None
    found = controllability(rows, SCHEMA, [], 100, 0, {"off_topic": [True, False, False, False], "restated": [True, True, False, False]})
    assert (found.off_topic, found.restated) == (0.25, 0.5)
    nothing = measured([])
    assert nothing.answers == 0
    assert nothing.preferences["length"].mae.value is None


def test_answers_that_repeat_their_instruction_are_counted() -> None:
    said = ["Rain falls.", "short (LENGTH 1/2)", "Answer style: short", "A length of 1/2 inch."]
    rows = [row({"length": 1}, length=1).model_copy(update={"text": text}) for text in said]
    assert measured(rows).repeats_instruction == 0.5


def test_same_rows_same_intervals_and_intervals_go_by_prompt() -> None:
    rng = np.random.default_rng(0)
    rows = [row({"length": 3}, prompt=p, length=float(rng.integers(1, 6))) for p in range(30)]
    once, again = measured(rows), measured(rows)
    assert once == again
    copies = measured([r for r in rows for _ in range(4)])
    apart = measured([r.model_copy(update={"prompt": r.prompt + 100 * c}) for r in rows for c in range(4)])

    def width(found: Any) -> float:
        bounds = found.preferences["length"].mae
        return float(bounds.high - bounds.low)

    assert width(copies) == pytest.approx(width(once), rel=1e-6)
    assert width(copies) > 1.5 * width(apart)  # 2 = sqrt(4) expected
