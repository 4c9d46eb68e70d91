"""Bone Soups: experts trained on mixtures of all rewards, merged so that the mixtures give the weights asked for (Xie et al. 2025).

Backbone i learns from r_i with weight beta and from each other reward with an even part of the rest. Asked for weights w, their
parameters are interpolated by l with B l = w: l sums to 1, and a corner lies beyond its backbone. Ours: one beta of those that the source
tries, 0.7, and no further extrapolation away from the starting model. The source was read in its abstract, its code's description and
summaries, not in full.
"""

from __future__ import annotations

import numpy as np

from moslim_core.baselines import rewarded_soups
from moslim_core.baselines.merging import Rule, interpolated
from moslim_core.baselines.method import Array, Asked
from moslim_core.registry import baseline

BETA = 0.7


def backbones(count: int) -> Array:
    """B (m, m): each backbone's weights of the m rewards, a symmetric circulant matrix."""
    return np.full((count, count), (1 - BETA) / (count - 1)) + (BETA - (1 - BETA) / (count - 1)) * np.eye(count)


@baseline("bone_soups")
class BoneSoups(rewarded_soups.RewardedSoups):
    rules: dict[str, Rule] = {"bone_soups": interpolated}
    rows = ("bone_soups",)

    @property
    def rewards(self) -> Array:
        return backbones(len(self.context.schema))

    def at(self, row: str, weights: Array) -> Asked:
        return super().at(row, np.linalg.solve(self.rewards, weights))
