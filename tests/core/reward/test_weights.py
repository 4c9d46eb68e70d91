"""Row weights against hand computation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moslim_core.reward.weights import Weighting, row_weights

LEVELS = np.array([[1, 1], [1, 0], [1, 0], [2, 2], [0, 2]])
SOURCES = ["a", "a", "b", "a", "b"]


def test_none() -> None:
    assert row_weights(LEVELS, SOURCES, "none").tolist() == [[1, 1], [1, 0], [1, 0], [1, 1], [0, 1]]


def test_balanced_levels_weigh_the_same_together() -> None:
    found = row_weights(LEVELS, SOURCES, "balanced")
    # Head 0: inverses 1/3, 1/3, 1/3, 1 have the mean 1/2. Head 1: 1, 1/2, 1/2 have the mean 2/3.
    assert found[:, 0].tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2, 0])
    assert found[:, 1].tolist() == pytest.approx([1.5, 0, 0, 0.75, 0.75])


def test_source_balanced_takes_roots_of_what_a_source_says_often() -> None:
    found = row_weights(LEVELS, SOURCES, "source_balanced")
    # Head 0: level 1 twice in a, once in b, level 2 once in a: 1/sqrt 2, 1/sqrt 2, 1, 1 over their mean.
    inverse = np.array([2**-0.5, 2**-0.5, 1, 1])
    assert found[:4, 0].tolist() == pytest.approx((inverse / inverse.mean()).tolist())
    assert found[:, 1].tolist() == pytest.approx([1, 0, 0, 1, 1])


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.sampled_from("ab")), min_size=1, max_size=30),
    st.sampled_from(["none", "balanced", "source_balanced"]),
)
def test_mean_1_over_labelled_rows_and_0_elsewhere(rows: list[tuple[int, int, str]], how: Weighting) -> None:
    levels = np.array([row[:2] for row in rows])
    weights = row_weights(levels, [row[2] for row in rows], how)
    assert (weights[levels == 0] == 0).all()
    for head in range(2):
        if (levels[:, head] > 0).any():
            assert weights[levels[:, head] > 0, head].mean() == pytest.approx(1, rel=1e-5)
