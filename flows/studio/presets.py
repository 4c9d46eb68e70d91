"""The points of an evaluation's front as settings of the sliders: where each lies between two preferences, and what it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from moslim_core.evaluation.fronts import Front, OperatingPoint
from moslim_core.preferences import PreferenceSchema
from moslim_core.report.wording import listing, number


class Preset(NamedTuple):
    """A point at (x, y), mean scores in [0, 1], in the picture of two preferences. `levels` is what choosing it asks for."""

    name: str
    levels: dict[str, int]
    x: float
    y: float
    non_dominated: bool
    said: str


def presets(front: Front, schema: PreferenceSchema, across: str, up: str) -> list[Preset]:
    """The points that levels can ask for and that have a score on both preferences, numbered as in the front."""
    made = []
    for index, point in enumerate(front.points, start=1):
        x, y = point.scores[across].value, point.scores[up].value
        if not point.levels or x is None or y is None or not set(point.levels) <= set(schema.names):
            continue
        wording = listing([f"{name} {level} · {schema[name].label(level)}" for name, level in point.levels.items()])
        made.append(Preset(str(index), dict(point.levels), x, y, point.non_dominated, f"Point {index}: {wording}. {_scores(point)}"))
    return made


class Span(NamedTuple):
    """What an axis shows, a little more than its points take."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Span:
        margin = max(0.12 * (max(values) - min(values)), 0.02)
        return cls(min(values) - margin, max(values) + margin)

    def share(self, value: float) -> float:
        """Where a value lies between the ends, in [0, 1]."""
        return (value - self.low) / (self.high - self.low)


def shown(front: Front) -> tuple[str, str]:
    """The two preferences that a picture shows at first: the front's first two."""
    first, second, *_ = front.reference
    return first, second


def _scores(point: OperatingPoint) -> str:
    return "Mean scores: " + ", ".join(f"{name} {number(of.value)}" for name, of in point.scores.items()) + "."
