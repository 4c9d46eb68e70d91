"""Points of a front as settings of the sliders."""

from __future__ import annotations

import pytest

from flows.studio.presets import Span, presets, shown
from tests.studio.made import SCHEMA, make_front


def test_points_say_what_they_ask_for_and_lie_where_they_score() -> None:
    front = make_front(({"verbosity": 3}, 0.9, 0.3), ({"verbosity": 2, "warmth": 2}, 0.5, 0.8))
    assert shown(front) == ("verbosity", "warmth")
    first, second = presets(front, SCHEMA, "verbosity", "warmth")
    assert (first.levels, first.x, first.y, first.non_dominated) == ({"verbosity": 3}, 0.9, 0.3, True)
    assert second.said == "Point 2: verbosity 2 · medium and warmth 2 · warm. Mean scores: verbosity 0.50, warmth 0.80."
    assert (presets(front, SCHEMA, "warmth", "verbosity")[0].x, second.non_dominated) == (0.3, False)


def test_points_without_levels_or_scores_are_no_presets() -> None:
    front = make_front(({}, 0.9, 0.3), ({"humour": 1}, 0.9, 0.3), ({"warmth": 1}, 0.5, 0.8), ({"warmth": 2}, 0.5, 0.8))
    front.points[3].scores["warmth"].value = None
    assert [p.name for p in presets(front, SCHEMA, "verbosity", "warmth")] == ["3"]


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5], [0.1, 0.9]])
def test_every_point_lies_within_its_axis(values: list[float]) -> None:
    span = Span.of(values)
    assert all(0 < span.share(value) < 1 for value in values)
    assert span.share(span.low) == 0 and span.share(span.high) == 1
