"""Judges whose agreement and whose biases are known."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from moslim_core.statistics.agreement import (
    cohen_kappa,
    judge_agreement,
    length_bias,
    length_correlation,
    position_bias,
    quadratic_kappa,
)

NAN = math.nan


def columns(*rows: tuple[float, ...]) -> tuple[np.ndarray, ...]:
    return tuple(np.array(c, dtype=float) for c in zip(*rows, strict=True))


def test_kappas_by_hand() -> None:
    one, two = columns((1, 1), (1, 2), (2, 2), (3, 3), (3, 1), (2, 3))
    # Equal: 3 of 6. Both say each level twice: equal by chance in 3 * (1/3)^2.
    assert cohen_kappa(one, two) == pytest.approx((1 / 2 - 1 / 3) / (1 - 1 / 3))
    # Squared distances: (0 + 1 + 0 + 0 + 4 + 1) / 6 = 1, by chance 4 / 3.
    assert quadratic_kappa(one, two) == pytest.approx(1 - 1 / (4 / 3))
    # Never equal, though each says one level only: no better than chance. Both only ever say the same: nothing to tell.
    assert cohen_kappa(*columns((1, 3), (1, 3))) == quadratic_kappa(*columns((1, 3), (1, 3))) == 0
    assert np.isnan([cohen_kappa(*columns((2, 2), (2, 2))), quadratic_kappa(*columns((2, 2), (2, 2)))]).all()


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=2, max_size=30))
def test_kappas_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    one, two = np.array(pairs).T
    for ours, weights in ((cohen_kappa, None), (quadratic_kappa, "quadratic")):
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):
            warnings.simplefilter("ignore")
            theirs = sklearn.metrics.cohen_kappa_score(one, two, labels=[1, 2, 3, 4, 5], weights=weights)
        assert ours(one, two) == pytest.approx(theirs, nan_ok=True)
        assert ours(two, one) == pytest.approx(ours(one, two), nan_ok=True)


def test_judges_are_compared_where_both_have_a_level() -> None:
    # Expected levels count as the nearest whole ones.
    one, two = columns((1.2, 1), (1, 2), (2, 1.6), (3, 3), (2.9, 1), (2, 3), (NAN, 1), (2, NAN), (NAN, NAN))
    found = judge_agreement(one, two, np.arange(9), bootstrap=100, seed=0)
    assert (found.compared, found.missing) == (6, 3)
    assert (found.exact.value, found.cohen_kappa.value, found.quadratic_kappa.value) == (0.5, pytest.approx(0.25), pytest.approx(0.25))
    assert found.exact.low is None, "six prompts have no bounds"


def test_intervals_are_over_prompts() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(1, 6, 40).astype(float)
    two = np.clip(one + rng.integers(-1, 2, 40), 1, 5)
    once = judge_agreement(one, two, np.arange(40), 200, 0)
    copies = judge_agreement(np.repeat(one, 4), np.repeat(two, 4), np.repeat(np.arange(40), 4), 200, 0)
    for a, b in ((once.exact, copies.exact), (once.cohen_kappa, copies.cohen_kappa), (once.quadratic_kappa, copies.quadratic_kappa)):
        assert a.low < a.value < a.high
        assert (b.low, b.high) == (pytest.approx(a.low), pytest.approx(a.high))


def test_position_bias_by_hand() -> None:
    # Consistent: a both times, b both times, a tie both times; the first shown both times; the second; one tie; one unread.
    a_first, b_first = columns((1, 1), (-1, -1), (0, 0), (1, -1), (1, -1), (-1, 1), (1, 0), (NAN, 1))
    found = position_bias(a_first, b_first, np.arange(8), 100, 0)
    assert (found.compared, found.missing) == (7, 1)
    assert found.consistent.value == pytest.approx(3 / 7)
    # Wins of the first shown: 1 of 2, 1 of 2, none, 2, 2, 0 of 2, 1 of 1.
    assert found.first_wins.value == pytest.approx(7 / 11)


def test_judges_that_see_only_the_order_or_only_the_answers() -> None:
    verdicts, prompts = np.where(np.arange(20) % 3, 1.0, -1.0), np.arange(20)
    by_order = position_bias(np.ones(20), -np.ones(20), prompts, 100, 0)
    by_answer = position_bias(verdicts, verdicts, prompts, 100, 0)
    assert (by_order.consistent.value, by_order.first_wins.value) == (0, 1)
    # Both orders of a pair stay together in a resample: what wins once as first and once as second has no spread.
    assert (by_answer.consistent.value, by_answer.first_wins.low, by_answer.first_wins.high) == (1, 0.5, 0.5)
    assert position_bias(np.zeros(20), np.zeros(20), prompts, 100, 0).first_wins.value is None


def test_length_bias_by_hand() -> None:
    # The longer wins, the longer wins, the shorter wins; a tie, equal lengths and an unread verdict decide nothing.
    verdicts, a, b = columns((1, 9, 3), (-1, 3, 9), (1, 3, 9), (0, 1, 2), (1, 4, 4), (NAN, 1, 2))
    found = length_bias(verdicts, a, b, np.arange(6), 100, 0)
    assert (found.decided, found.missing, found.longer_wins.value) == (3, 1, pytest.approx(2 / 3))
    # Which answer is called a must not matter.
    assert length_bias(-verdicts, b, a, np.arange(6), 100, 0) == found
    fond = length_bias(np.where(np.arange(40) % 4, 1.0, -1.0), np.full(40, 9), np.full(40, 5), np.arange(40), 200, 0).longer_wins
    assert fond.value == 0.75 and 0.5 < fond.low < 0.75 < fond.high < 1


def test_grades_that_follow_length() -> None:
    lengths, prompts = np.arange(12.0) ** 2, np.arange(12)
    grades = np.arange(12.0)
    grades[3] = NAN
    assert length_correlation(grades, lengths, prompts, 100, 0).value == pytest.approx(1)
    assert length_correlation(-grades, lengths, prompts, 100, 0).value == pytest.approx(-1)
    assert length_correlation(np.full(12, 7.0), lengths, prompts, 100, 0).value is None


def test_nothing_to_compare_is_null_and_warns_of_nothing() -> None:
    untold, prompts = np.full(9, NAN), np.arange(9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = judge_agreement(untold, untold, prompts, 100, 0)
        swayed = position_bias(untold, untold, prompts, 100, 0)
        longer = length_bias(untold, prompts, prompts, prompts, 100, 0)
        graded = length_correlation(untold, prompts, prompts, 100, 0)
    figures = (found.exact, found.cohen_kappa, found.quadratic_kappa, swayed.consistent, swayed.first_wins, longer.longer_wins, graded)
    assert all(figure.value is None for figure in figures)
    assert found.missing == swayed.missing == longer.missing == 9
