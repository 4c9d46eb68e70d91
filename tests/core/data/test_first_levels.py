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
    "values", [Counter({"red": 20, "blue": 20}), Counter({"3": 60}), Counter({None: 9}), Counter({"a long text of words": 1, "another": 1})]
)
def test_what_rates_nothing(values: Counter[Any]) -> None:
    assert proposed(values, "warmth") is None


@given(st.dictionaries(st.integers(-3, 6) | st.floats(-50, 50).map(lambda x: round(x, 2)), st.integers(1, 60), min_size=2, max_size=30))
def test_any_numbers_give_a_profile_that_reads_them(values: dict[float, int]) -> None:
    found = proposed(Counter(values), "warmth")
    if found is None:
        return
    read = levels(found, Counter(values))
    assert set(read) <= set(range(1, len(found.labels) + 1))
    assert sum(read.values()) == sum(values.values())
    if found.thresholds is None and len(found.labels) > 2:
        assert min(found.rows) >= LEAST_ROWS or len(found.table or ()) > MOST_IN_TABLE


def test_what_is_unclear_is_said() -> None:
    found = proposed(Counter({"1": 90, "2": 1, "3": 3, "?": 2}), "warmth")
    assert found is not None and found.table is not None and found.table["?"] is None
    said = " ".join(found.notes)
    assert "joined" in said and "?" in said and "few rows" in said and "at one level" in said
