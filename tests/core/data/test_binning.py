"""Quantile thresholds cut ratings into levels as even as ties allow, none of them empty."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from moslim_core.data.binning import Binning, quantile_thresholds
from moslim_core.settings import LabelColumn


def levels(ratings: list[float], thresholds: tuple[float, ...]) -> list[int]:
    binning = Binning("warmth", "warmth", len(thresholds) + 1, thresholds=thresholds)
    return [binning.cut(rating) for rating in ratings]


def test_distinct_ratings_are_cut_evenly() -> None:
    thresholds = quantile_thresholds(np.arange(1, 301.0), 3)
    assert thresholds == (100.0, 200.0)
    assert [levels(list(range(1, 301)), thresholds).count(level) for level in (1, 2, 3)] == [100, 100, 100]


def test_skewed_five_point_ratings_keep_every_level() -> None:
    # Plain terciles of these are 5 and 5: two empty levels.
    ratings = np.repeat([1.0, 2, 3, 4, 5], [1, 2, 5, 20, 72])
    assert quantile_thresholds(ratings, 3) == (3.0, 4.0)
    assert quantile_thresholds(ratings, 5) == (1.0, 2.0, 3.0, 4.0)
    assert quantile_thresholds(ratings, 2) == (4.0,)
    assert quantile_thresholds(ratings, 6) is None


@given(st.lists(st.integers(-3, 12), min_size=1, max_size=60), st.integers(2, 5))
def test_thresholds_rise_and_no_level_is_empty(ratings: list[int], k: int) -> None:
    thresholds = quantile_thresholds(np.array(ratings, float), k)
    if len(set(ratings)) < k:
        assert thresholds is None
    else:
        assert thresholds is not None and len(thresholds) == k - 1
        assert all(a < b for a, b in itertools.pairwise(thresholds))
        assert set(levels(list(ratings), thresholds)) == set(range(1, k + 1))


def test_card_tells_the_way() -> None:
    assert Binning("warmth", "w", 2, levels={"0": 1, "1": 2}).recorded() == {"column": "w", "levels": {"0": 1, "1": 2}}
    assert Binning("warmth", "w", 2).recorded() == {"column": "w"}
    quantiles = Binning("warmth", "w", 2, thresholds=(0.5,), quantiles=True)
    assert quantiles.recorded() == {"column": "w", "quantiles": True, "thresholds": [0.5]}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"levels": {"1": 1}, "thresholds": [1]}, "levels and thresholds exclude one another"),
        ({"thresholds": [1], "quantiles": True}, "thresholds and quantiles exclude one another"),
        ({"thresholds": [2, 2]}, "rising"),
        ({"thresholds": [2, 1]}, "rising"),
    ],
)
def test_settings_take_one_way(values: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        LabelColumn.model_validate(values)
