"""MORLHF: one policy per operating point, by RL on the weighted sum of rewards (linear scalarisation; the baseline of Rame et al. 2023).

Two rows, as what a sum of rewards means depends on their scales: rewards as they are, and z-scored by their running mean and spread.
"""

from __future__ import annotations

from moslim_core.baselines.experts import Expert, Standardisation
from moslim_core.baselines.method import Array, Asked, Cost, Method, phase_seconds
from moslim_core.preferences import Targets

STANDARDISATIONS: dict[str, Standardisation] = {"morlhf": "none", "morlhf_normalised": "running"}


class Compared(Method):
    rows = tuple(STANDARDISATIONS)

    def expert(self, row: str, weights: Array) -> Expert:
        """The policy of an operating point. Each row has the whole budget, shared out among the points."""
        name = "-".join([row, *(f"{w:.3f}" for w in weights)])
        return Expert(self.context, name, weights, len(self.context.weights), STANDARDISATIONS[row])

    def train(self) -> None:
        for row in self.rows:
            for weights in self.context.weights:
                self.expert(row, weights).train()

    def at(self, row: str, weights: Array) -> Asked:
        expert = self.expert(row, weights)
        return Asked(self.context.trained(expert.name, expert.folder), Targets())

    def cost(self, row: str) -> Cost:
        experts = [self.expert(row, weights) for weights in self.context.weights]
        used = sum(expert.rollouts for expert in experts)
        return Cost(
            policies=len(experts),
            rollouts=used,
            resident=len(experts),
            point_rollouts=round(used / len(experts)),
            seconds=phase_seconds([expert.log for expert in experts]),
        )
