"""Rewarded Soups: one RL expert per preference, their adapters interpolated at any operating point (Rame et al. 2023).

Rows: as published, factors interpolated; with the exact sum of weight changes; and Personalized Soups' mean of those experts that are
wanted at all (Jang et al. 2023).
"""

from __future__ import annotations

import numpy as np

from moslim_core.baselines.experts import Expert, WithoutRequests
from moslim_core.baselines.merging import Rule, averaged, exact, interpolated, load_experts
from moslim_core.baselines.method import Array, Asked, Cost, at_point, phase_seconds
from moslim_core.preferences import Targets
from moslim_core.registry import baseline
from moslim_core.settings import Settings

RULES: dict[str, Rule] = {"rewarded_soups": interpolated, "rewarded_soups_exact": exact, "personalised_soups": averaged}


@baseline("rewarded_soups")
class RewardedSoups(WithoutRequests):
    rules: dict[str, Rule] = RULES
    rows: tuple[str, ...] = tuple(RULES)
    free_points = True

    @classmethod
    def kept(cls, settings: Settings) -> int:
        return sum(not p.is_guard for p in settings.preferences.preferences)

    @property
    def rewards(self) -> Array:
        """(m, m): the weights that each expert is trained for."""
        return np.eye(len(self.context.schema))

    @property
    def experts(self) -> list[Expert]:
        """One per preference; they share the budget."""
        names = self.context.schema.names
        return [Expert(self.context, name, weights, len(names)) for name, weights in zip(names, self.rewards, strict=True)]

    def train(self) -> None:
        for expert in self.experts:
            expert.train()

    def at(self, row: str, weights: Array) -> Asked:
        base, tokenizer = self.context.chat_model(self.context.settings.model.base)
        model = self.rules[row](load_experts(base, [expert.folder for expert in self.experts]), weights.tolist())
        name = at_point(row, weights)
        return Asked(self.context.system(name, model, tokenizer), Targets())

    def cost(self, row: str) -> Cost:
        return Cost(
            policies=len(self.experts),
            rollouts=sum(expert.rollouts for expert in self.experts),
            # The base and one adapter each.
            resident=1 + len(self.experts),
            seconds=phase_seconds([expert.log for expert in self.experts]),
        )
