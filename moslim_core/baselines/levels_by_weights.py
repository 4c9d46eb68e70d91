"""Levels of a method that is steered by weights: it answers where its answers to training prompts come nearest to what is asked. (ours)

Neither the judge nor the evaluation's prompts have a part in that. A method whose points cost no training chooses among many of them; one
that trains a policy for each, among its operating points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moslim_core.baselines.levels import Levels, Points
from moslim_core.baselines.method import Answering, Array, Context, Method
from moslim_core.evaluation.answers import requests
from moslim_core.evaluation.controllability import Obtained
from moslim_core.evaluation.fronts import simplex_grid
from moslim_core.preferences import PreferenceSchema, Targets
from moslim_core.settings_section import changed

# Points to choose among where one costs no training; corners and centre are operating points already.
FINE_POINTS = 13


class LevelsByWeights(Levels):
    """Of a row of a method that is steered by weights; each point that is chosen is asked all evaluation prompts, once."""

    def __init__(self, method: Method, row: str, context: Context) -> None:
        super().__init__(context)
        self.method, self.row = method, row
        self.points = Points([], [Targets()] * len(context.weights), [])
        for number, weights in enumerate(context.weights, start=1):
            who = method.at(row, weights)
            self.points.answers.append(context.judged_answers(who, f"point {number}", Targets()))
            if method.trained:
                self.points.typical.append(context.typical_levels(who, f"typical {number}"))
        self.weights, self.typical, self.known = list(context.weights), list(self.points.typical), dict(enumerate(self.points.answers))
        if method.free_points:
            for weights in fine_points(context.weights):
                self.typical.append(context.typical_levels(method.at(row, weights), f"fine typical {len(self.weights)}"))
                self.weights.append(weights)

    def under(self, targets: Targets) -> Answering:
        return self.method.at(self.row, self.weights[self._point(targets)])

    def name(self, targets: Targets) -> str:
        return f"point {self._point(targets) + 1}"

    def alone(self) -> list[Obtained]:
        schema = self.context.settings.preferences
        return [changed(a, targets=dict(targets)) for targets in requests(schema, []) for a in self._to_prompts(targets)]

    def together(self, wanted: Sequence[tuple[int, Targets]]) -> list[Obtained]:
        return [changed(self._to_prompts(targets)[prompt], targets=dict(targets)) for prompt, targets in wanted]

    def _to_prompts(self, targets: Targets) -> list[Obtained]:
        chosen = self._point(targets)
        if chosen not in self.known:
            self.known[chosen] = self.context.judged_answers(self.under(targets), f"fine point {chosen}", Targets())
        return self.known[chosen]

    def _point(self, targets: Targets) -> int:
        if not targets:
            return most_even(self.weights)
        return nearest(self.typical, targets, self.context.settings.preferences)


def fine_points(operating: Array) -> list[Array]:
    """Weights (m,) of points that lie evenly, without those of the `operating` points (n, m)."""
    preferences = operating.shape[1]
    grid = simplex_grid(preferences, max(FINE_POINTS, preferences + 1))
    return [weights for weights in grid if not np.isclose(operating, weights).all(axis=1).any()]


def most_even(points: Sequence[Array]) -> int:
    """The point that prefers nothing the most; the first of equals."""
    return min(range(len(points)), key=lambda n: float(points[n].max()))


def nearest(typical: Sequence[dict[str, float]], targets: Targets, schema: PreferenceSchema) -> int:
    """The point whose typical levels are nearest to the requested ones, each distance as a share of the preference's range."""
    return min(range(len(typical)), key=lambda n: sum(abs(typical[n][of] - level) / (schema[of].k - 1) for of, level in targets.items()))
