"""Judges whose agreement is known."""

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


def test_nothing_to_compare_is_null_and_warns_of_nothing() -> None:
    untold, prompts = np.full(9, NAN), np.arange(9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = judge_agreement(untold, untold, prompts, 100, 0)
    assert all(figure.value is None for figure in (found.exact, found.cohen_kappa, found.quadratic_kappa))
    assert found.missing == 9
