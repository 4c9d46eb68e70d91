"""Quantile thresholds cut ratings into levels as even as ties allow, none of them empty."""

from __future__ import annotations

import itertools
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from moslim_core.data.bad_rows import BadRow
from moslim_core.data.binning import MARGIN, Binning, quantile_thresholds
from moslim_core.data.rows import nearest
from moslim_core.data.settings import LabelColumn


def levels(ratings: list[float], thresholds: tuple[float, ...]) -> list[int]:
    binning = Binning("warmth", "warmth", len(thresholds) + 1, thresholds=thresholds).measured(np.array(ratings, float))
    assert binning is not None
    return [nearest(binning.cut(rating)) for rating in ratings]


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


def test_ratings_between_the_mean_ratings_of_two_levels_lie_between_these() -> None:
    """Levels up to 2 and up to 4; of the training ratings 0 and 2 are level 1, 3 level 2, 5 and 9 level 3: means 1, 3 and 7."""
    binning = Binning("warmth", "w", 3, thresholds=(2.0, 4.0)).measured(np.array([0.0, 2, 3, 5, 9]))
    assert binning is not None
    expected = {-5: 1, 1: 1, 1.5: 1.25, 2: 1.5 - MARGIN, 2.5: 1.75, 3: 2, 4: 2.25, 5: 2.5, 6: 2.75, 7: 3, 90: 3}
    assert {rating: binning.cut(rating) for rating in expected} == pytest.approx(expected)
    empty = Binning("warmth", "w", 3, thresholds=(2.0, 4.0)).measured(np.array([1.0, 7]))
    assert empty is not None and [empty.cut(rating) for rating in (1.9, 3, 6)] == [1, 2, 3], "nothing was seen of level 2"


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=40), st.lists(st.floats(-5, 5), min_size=1, max_size=4, unique=True))
def test_the_nearest_level_is_that_of_the_thresholds(ratings: list[float], edges: list[float]) -> None:
    thresholds = tuple(sorted(edges))
    assert levels([*ratings, *edges], thresholds) == [1 + sum(t < rating for t in thresholds) for rating in [*ratings, *edges]]


LEVELS = {"0": 1, "1": 1, "2": None, "3": 2, "4": 3, "hot": 3}


@pytest.mark.parametrize(
    ("given", "rating", "level"),
    [
        ({}, 4.5, 4.5), ({}, " 4 ", 4), ({}, "4.5", 4.5), ({}, "4/5", 4), ({}, "4.5 / 5", 4.5), ({}, [4, 5, None], 4.5),
        ({}, "[3, 4]", 3.5), ({}, "", None), ({}, [], None), ({}, Decimal("2.5"), 2.5), ({}, ["4/5", "5"], 4.5),
        ({}, float("nan"), None), ({}, "N/A", None), ({}, " nan ", None), ({}, [4, float("nan"), "-"], 4), ({}, "None", None),
        ({"levels": {"none": 1, "mild": 2}}, "none", 1), ({"levels": {"none": 1, "mild": 2}}, None, None),
        ({"levels": LEVELS}, float("nan"), None),
        ({"levels": LEVELS}, "hot", 3), ({"levels": LEVELS}, 0.5, 1), ({"levels": LEVELS}, 3.25, 2.25), ({"levels": LEVELS}, 1.5, None),
        ({"levels": LEVELS}, "3/4", 2), ({"levels": LEVELS}, "3.0", 2), ({"levels": LEVELS}, [4, "hot", 2, 3], 8 / 3),
    ],
)  # fmt: skip
def test_ratings_as_people_write_them(given: dict[str, Any], rating: Any, level: float | None) -> None:
    found = Binning("warmth", "w", 3 if given else 5, **given).level(rating, "here")
    assert found == (None if level is None else pytest.approx(level))


@pytest.mark.parametrize("rating", ["4/10", "1_0", "٤", "4 stars", "inf", 0.5, 5.5, True, {"a": 1}, [[4]], 10**300, "4,5", "--"])
def test_what_is_no_rating_is_refused(rating: Any) -> None:
    with pytest.raises(BadRow, match=r"^here: w=.* is no level of warmth \(1\.\.5, or null\)\.\nMap ratings"):
        Binning("warmth", "w", 5).level(rating, "here")


@pytest.mark.parametrize("missing", [None, "", float("nan"), "NaN", "NA", "n/a", "null", "None", "-", []])
def test_a_missing_rating_is_cut_by_no_threshold(missing: Any) -> None:
    binning = Binning("warmth", "w", 3, thresholds=(2.0, 4.0))
    assert binning.rating(missing, "here") is None
    assert binning.rating([missing, 3], "here") == 3 if missing != [] else True


@pytest.mark.parametrize("rating", [5, 2.5, 4.5, -0.5, "3/5", "cold"])
def test_what_the_table_does_not_know_is_refused(rating: Any) -> None:
    with pytest.raises(BadRow, match="is not in the level mapping of warmth"):
        Binning("warmth", "w", 3, levels={"0": 1, "1": 1, "3": 2, "4": 3}).level(rating, "here")


def test_card_tells_the_way() -> None:
    assert Binning("warmth", "w", 2, levels={"0": 1, "1": 2}).recorded() == {"column": "w", "levels": {"0": 1, "1": 2}}
    assert Binning("warmth", "w", 2).recorded() == {"column": "w"}
    quantiles = Binning("warmth", "w", 2, quantiles=True).measured(np.array([0.0, 0.5, 1, 3]))
    assert quantiles is not None
    assert quantiles.recorded() == {"column": "w", "quantiles": True, "thresholds": [0.5], "means": [0.25, 2]}


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
