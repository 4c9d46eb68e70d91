"""Intervals by prompt: they cover what they should, are the same every time, and know that answers to one prompt hang together."""

from __future__ import annotations

import numpy as np
import pytest

from moslim_core.statistics.bootstrap import Interval, interval, resamples


def mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def test_prompts_are_drawn_with_all_their_rows() -> None:
    groups = np.array([7, 3, 7, 5, 3, 7])
    draws = resamples(groups, 200, seed=0)
    for rows in draws:
        prompts = groups[rows]
        assert sum(np.sum(prompts == g) / np.sum(groups == g) for g in (3, 5, 7)) == 3
        for g in (3, 5, 7):
            counts = np.unique(rows[prompts == g], return_counts=True)[1]
            assert len(set(counts)) <= 1  # the rows of one prompt come together or not at all
    assert [d.tolist() for d in draws] == [d.tolist() for d in resamples(groups, 200, seed=0)]


def test_interval_covers_a_known_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(120):
        values = rng.normal(3, 1, 60)
        found = interval(mean, (values,), resamples(np.arange(60), 200, trial))
        assert found.low < found.value < found.high
        hits += found.low <= 3 <= found.high
    assert 0.88 <= hits / 120 <= 0.99


def test_width_is_that_of_the_standard_error() -> None:
    values = np.random.default_rng(1).normal(0, 1, 400)
    found = interval(mean, (values,), resamples(np.arange(400), 2000, 0))
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_repeating_answers_of_a_prompt_does_not_narrow_the_interval() -> None:
    values, prompts = np.random.default_rng(2).normal(0, 1, 50), np.arange(50)
    once = interval(mean, (values,), resamples(prompts, 500, 0))
    nine = interval(mean, (np.repeat(values, 9),), resamples(np.repeat(prompts, 9), 500, 0))
    naive = interval(mean, (np.repeat(values, 9),), resamples(np.arange(450), 500, 0))
    assert nine.high - nine.low == pytest.approx(once.high - once.low, rel=1e-6)
    assert nine.high - nine.low > 2.5 * (naive.high - naive.low)  # 3 = sqrt(9) expected


def test_undefined_is_null_and_never_a_number() -> None:
    draws = resamples(np.arange(8), 100, 0)
    assert interval(mean, (np.array([]),), []) == Interval(value=None, low=None, high=None)
    # A statistic that most draws do not define has a value, but no bounds.
    rare = interval(lambda v: 1.0 if len(set(v.tolist())) == 8 else float("nan"), (np.arange(8),), draws)
    assert rare == Interval(value=1.0, low=None, high=None)
    assert str(rare) == "1.00"
    assert str(Interval(value=None, low=None, high=None)) == "n/a"
    assert str(Interval(value=0.5, low=0.25, high=1)) == "0.50 [0.25, 1.00]"


def test_too_few_prompts_have_no_bounds() -> None:
    # Two prompts of ten equal answers each: every draw would give an interval of no width.
    values, prompts = np.full(20, 0.5), np.repeat([0, 1], 10)
    assert interval(mean, (values,), resamples(prompts, 100, 0)) == Interval(value=0.5, low=None, high=None)


def test_small_numbers_have_a_digit_more() -> None:
    assert str(Interval(value=0.006, low=0.001, high=0.012)) == "0.006 [0.001, 0.012]"
    assert str(Interval(value=0.06, low=-0.06, high=0.17)) == "0.06 [-0.06, 0.17]"
    assert str(Interval(value=0.0, low=None, high=None)) == "0.00" and str(Interval(value=None, low=None, high=None)) == "n/a"
