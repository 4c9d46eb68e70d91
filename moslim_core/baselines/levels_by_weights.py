"""Levels of a method that is steered by weights: it answers where its answers to training prompts come nearest to what is asked. (ours)

Neither the judge nor the evaluation's prompts have a part in that. A method whose points cost no training chooses among many of them; one
that trains a policy for each, among its operating points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moslim_core.baselines.method import Array, Context, Method
from moslim_core.evaluation.answers import requests
from moslim_core.evaluation.controllability import Obtained
from moslim_core.evaluation.fronts import simplex_grid
from moslim_core.preferences import PreferenceSchema, Targets
from moslim_core.settings_section import changed

# Points to choose among where one costs no training; corners and centre are operating points already.
FINE_POINTS = 13


class LevelsByWeights:
    """The answers of a row of a method under requests for levels; each point that is chosen is asked all evaluation prompts, once."""

    def __init__(
        self, method: Method, row: str, context: Context, answers: Sequence[list[Obtained]], typical: Sequence[dict[str, float]]
    ) -> None:
        """`answers`, `typical` (`Context.typical_levels`): of the operating points."""
        self.method, self.row, self.context = method, row, context
        self.weights, self.typical, self.answers = list(context.weights), list(typical), dict(enumerate(answers))
        if method.free_points:
            for weights in fine_points(context.weights):
                self.typical.append(context.typical_levels(method.at(row, weights), f"fine typical {len(self.weights)}"))
                self.weights.append(weights)

    def alone(self) -> list[Obtained]:
        """Under every requestable level alone."""
        schema = self.context.settings.preferences
        return [changed(a, targets=dict(targets)) for targets in requests(schema, []) for a in self._under(targets)]

    def together(self, wanted: Sequence[tuple[int, Targets]]) -> list[Obtained]:
        """Under requests for several levels at once, (prompt, targets)."""
        return [changed(self._under(targets)[prompt], targets=dict(targets)) for prompt, targets in wanted]

    def _under(self, targets: Targets) -> list[Obtained]:
        chosen = nearest(self.typical, targets, self.context.settings.preferences)
        if chosen not in self.answers:
            who = self.method.at(self.row, self.weights[chosen])
            self.answers[chosen] = self.context.judged_answers(who, f"fine point {chosen}", Targets())
        return self.answers[chosen]


def fine_points(operating: Array) -> list[Array]:
    """Weights (m,) of points that lie evenly, without those of the `operating` points (n, m)."""
    preferences = operating.shape[1]
    grid = simplex_grid(preferences, max(FINE_POINTS, preferences + 1))
    return [weights for weights in grid if not np.isclose(operating, weights).all(axis=1).any()]


def nearest(typical: Sequence[dict[str, float]], targets: Targets, schema: PreferenceSchema) -> int:
    """The point whose typical levels are nearest to the requested ones, each distance as a share of the preference's range."""
    return min(range(len(typical)), key=lambda n: sum(abs(typical[n][of] - level) / (schema[of].k - 1) for of, level in targets.items()))
