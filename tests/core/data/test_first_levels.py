"""Ratings of every kind get levels that the label stage reads, none of them empty."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moslim_core.data.binning import Binning
from moslim_core.data.first_levels import LEAST_ROWS, MOST_IN_TABLE, Proposed, proposed
from moslim_core.data.settings import LabelColumn
from moslim_core.preferences import Preference


def binning(found: Proposed) -> Binning:
    column = LabelColumn(levels=found.table, thresholds=found.thresholds)
    return Binning.of("x", "x", len(found.labels), column)


def levels(found: Proposed, values: Counter[Any]) -> Counter[int | None]:
    """What the label stage makes of the values."""
    of = binning(found)
    counted: Counter[int | None] = Counter()
    for value, rows in values.items():
        level = of.level(value, "here") if found.table else 1 + sum(of.number(value, "here") > t for t in found.thresholds or ())
        counted[None if level is None else int(level)] += rows
    return counted


@pytest.mark.parametrize(
    ("values", "k"),
    [
        (Counter({"1": 20, "2": 20, "3": 20, "4": 20, "5": 20}), 5),
        (Counter({0: 30, 1: 30}), 2),
        (Counter({"1": 2, "2": 1, "3": 40, "4": 30, "5": 20}), 3),
        (Counter({"4/5": 30, "5/5": 30, "2/5": 30}), 3),
        (Counter({"low": 20, "High": 20, "medium": 20, "HIGH": 3}), 3),
        (Counter({True: 30, False: 20}), 2),
        (Counter({"yes": 30, "no": 20, "n/a": 2}), 2),
        (Counter({str(n): 10 for n in range(1, 11)}), 3),
        (Counter({n / 10: 4 for n in range(40)}), 3),
        (Counter({float(n) / 7: 4 for n in range(400)}), 5),
        (Counter({-3: 30, 0: 30, 3: 30}), 3),
        (Counter({"85%": 20, "40 %": 20, "12%": 20}), 3),
        (Counter({"7,5": 20, "2,0": 20, "9,1": 20}), 3),
        (Counter({"4 stars": 20, "1 star": 20, "5 stars": 20}), 3),
        (Counter({"★★★☆☆": 20, "★☆☆☆☆": 20, "★★★★★": 20}), 3),
        (Counter({"👍": 20, "👎": 20}), 2),
        (Counter({"A": 20, "B+": 20, "C": 20, "b": 20}), 3),
        (Counter({"none": 20, "mild": 20, "severe": 20}), 3),
        (Counter({"True": 20, 1: 10, "False": 10, 0: 20}), 2),
        (Counter({f"{n / 250:.3f}".replace(".", ","): 2 for n in range(250)}), 3),
    ],
)
def test_levels_of_a_scale(values: Counter[Any], k: int) -> None:
    found = proposed(values, "warmth")
    assert found is not None and len(found.labels) == k
    Preference(name="warmth", levels=found.labels)
    read = levels(found, values)
    assert [read[level] for level in range(1, k + 1)] == list(found.rows)
    assert min(found.rows) > 0


@pytest.mark.parametrize(
    "values",
    [
        Counter({"red": 20, "blue": 20}),
        Counter({"3": 60}),
        Counter({None: 9}),
        Counter({"a long text of words": 1, "another": 1}),
        Counter({"A": 30, "B": 30}),
        Counter({"None": 30, "-": 30}),
    ],
)
def test_what_rates_nothing(values: Counter[Any]) -> None:
    assert proposed(values, "warmth") is None


@given(st.dictionaries(st.integers(-3, 6) | st.floats(-50, 50).map(lambda x: round(x, 2)), st.integers(1, 60), min_size=2, max_size=30))
def test_any_numbers_give_a_profile_that_reads_them(values: dict[float, int]) -> None:
    found = proposed(Counter(values), "warmth")
    if found is None:
        return
    read = levels(found, Counter(values))
    # A few that are far off all others are said to be none of the scale.
    assert set(read) - {None} <= set(range(1, len(found.labels) + 1))
    assert read[None] <= max(1, 0.03 * sum(values.values()))
    assert bool(read[None]) == any("none of the scale" in note for note in found.notes)
    assert sum(read.values()) == sum(values.values())
    if found.thresholds is None and len(found.labels) > 2:
        assert min(found.rows) >= LEAST_ROWS or len(found.table or ()) > MOST_IN_TABLE


@pytest.mark.parametrize("missing", ["NA", "N/A", "nan", "-", "null", None, float("nan"), ""])
def test_what_says_that_there_is_no_rating_counts_as_none_however_often(missing: Any) -> None:
    for values in (Counter({1: 20, 2: 20, 3: 20, missing: 60}), Counter({"low": 20, "high": 20, missing: 60})):
        found = proposed(values, "warmth")
        assert found is not None and sum(found.rows) == values.total() - 60
        assert levels(found, values)[None] == 60


def test_a_slip_of_the_pen_is_none_of_the_scale() -> None:
    for rows, top, slip in ((30, 5, 55), (30, 5, 9), (10, 3, 9), (30, 5, -99)):
        found = proposed(Counter({**dict.fromkeys(range(1, top + 1), rows), slip: 1}), "warmth")
        assert found is not None and found.rows == (rows,) * top
        assert found.notes == (f"none of the scale: 1 rated {slip}, which count as not rated",)


def test_the_rare_end_of_a_scale_is_no_slip_of_the_pen() -> None:
    values = Counter({**dict.fromkeys(range(3, 8), 100), 8: 3, 9: 3, 10: 3})
    found = proposed(values, "warmth")
    assert found is not None and sum(found.rows) == values.total()


def test_what_is_not_rated_leaves_a_row_that_thresholds_cut() -> None:
    values = Counter({**{n / 7: 2 for n in range(90)}, "NA": 60, float("nan"): 9, "": 3})
    found = proposed(values, "warmth")
    assert found is not None and found.thresholds is not None and sum(found.rows) == 180
    assert {binning(found).rating(value, "here") for value in ("NA", float("nan"), "")} == {None}


@pytest.mark.parametrize("values", [dict.fromkeys(range(1, 11), 15), {n / 2: 15 for n in range(2, 11)}, {25 * n: 30 for n in range(5)}])
def test_ratings_that_are_joined_are_told(values: dict[float, int]) -> None:
    found = proposed(Counter(values), "warmth")
    assert found is not None and len(found.labels) == 3
    assert any(note.startswith(f"{len(values)} different ratings are joined to 3 levels") for note in found.notes), found.notes


def test_what_is_unclear_is_said() -> None:
    found = proposed(Counter({"1": 90, "2": 1, "3": 3, "?": 2}), "warmth")
    assert found is not None and found.table is not None and found.table["?"] is None
    said = " ".join(found.notes)
    assert "joined" in said and "?" in said and "few rows" in said and "at one level" in said
