"""What requests move that they leave open: measured on the policy's own answers as it learns, and held back. (ours)

Most warm answers are long. A policy that learns to be warm therefore learns to be long, unasked. The slope of the obtained score of an
open preference j on the requested score of i is what an evaluation calls cross-talk (docs/method.md section 5). Under a request an answer
loses

    penalty * sum over i named, j open of slope_ij * (requested score of i - 1/2) * obtained score of j

which pushes j against its slope, as hard as the slope is steep, and does nothing where a request moves only what it names. A loss for every
distance from the middle would hold back what answers differ in by themselves, too: it costs control before it lowers cross-talk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from moslim_core.preferences import PreferenceSchema, Targets
from moslim_core.reward.metrics import expected_scores
from moslim_core.training.distributed import total

Array = np.ndarray

# Decay of what was measured before, per step: a slope is that of about five steps.
KEPT = 0.8
# Shrinkage: two pseudo-answers without a slope, one at each end of i, are added, as a few answers alone say little.
NO_SLOPE = 0.5


class CrossTalk:
    """Slopes (m, m) of the obtained scores of open preferences on the requested scores of named ones, over the last steps."""

    def __init__(self, schema: PreferenceSchema) -> None:
        self.schema = schema
        # Of the answers in which i was named and j open: their number; sums of x, y, x^2 and xy (5, m, m).
        self.sums = np.zeros((5, len(schema.preferences), len(schema.preferences)))

    def measure(self, probabilities: Mapping[str, Array], targets: Sequence[Targets]) -> None:
        """Count in a step's n answers: probabilities {preference: (n, K)} and the targets that each was drawn under. Every process asks."""
        asked, named, obtained = self._scores(probabilities, targets)
        left = 1.0 - named
        sums = [named.T @ left, asked.T @ left, named.T @ (obtained * left), (asked**2).T @ left, asked.T @ (obtained * left)]
        self.sums = KEPT * self.sums + total(torch.from_numpy(np.stack(sums))).numpy()

    @property
    def slopes(self) -> Array:
        """(m, m): of the obtained score of j on the requested score of i; 0 where nothing was measured."""
        n, x, y, xx, xy = self.sums
        n = np.maximum(n, 1.0)
        return (xy - x * y / n) / (xx - x * x / n + NO_SLOPE)

    def losses(self, probabilities: Mapping[str, Array], targets: Sequence[Targets]) -> Array:
        """What each of n answers loses under its targets, (n,), in scores."""
        asked, named, obtained = self._scores(probabilities, targets)
        return ((asked @ self.slopes) * obtained * (1.0 - named)).sum(axis=1)

    def figures(self) -> dict[str, float]:
        """The slopes that were measured, by `cross_talk/NAMED/OPEN`."""
        names, slopes = self.schema.names, self.slopes
        return {f"cross_talk/{names[i]}/{names[j]}": float(slopes[i, j]) for i, j in np.argwhere(self.sums[0]).tolist()}

    def state(self) -> list[Any]:
        """What was measured so far, as JSON has it."""
        return self.sums.tolist()

    def load_state(self, state: list[Any]) -> None:
        """Go on from what `state` gave."""
        self.sums = np.array(state)

    def _scores(self, probabilities: Mapping[str, Array], targets: Sequence[Targets]) -> tuple[Array, Array, Array]:
        """(requested scores less 1/2, 0 where open; 1 where named; obtained scores), each (n, m). A guard is named, and moves nothing."""
        shape = (len(targets), len(self.schema))
        asked, named, obtained = np.zeros(shape), np.zeros(shape), expected_scores(probabilities, self.schema)
        for column, p in enumerate(self.schema.preferences):
            named[:, column] = [p.name in t for t in targets]
            if not p.is_guard:
                asked[:, column] = [p.score(t[p.name]) - 0.5 if p.name in t else 0.0 for t in targets]
        return asked, named, obtained
