"""MORLHF: one policy per operating point, by RL on the weighted sum of rewards (linear scalarisation; the baseline of Rame et al. 2023).

What a sum of rewards means depends on their scales: here they are as they are, in `morlhf_normalised` z-scored.
"""

from __future__ import annotations

from moslim_core.baselines.experts import Expert, Standardisation, WithoutRequests
from moslim_core.baselines.method import Array, Asked, Cost, at_point, phase_seconds
from moslim_core.preferences import Targets
from moslim_core.registry import baseline
from moslim_core.settings import Settings


@baseline("morlhf")
class MORLHF(WithoutRequests):
    rows: tuple[str, ...] = ("morlhf",)
    standardisation: Standardisation = "none"

    @classmethod
    def kept(cls, settings: Settings) -> int:
        return settings.evaluation.operating_points

    def expert(self, weights: Array) -> Expert:
        """The policy of an operating point; the budget is shared out among the points."""
        name = at_point(self.rows[0], weights)
        return Expert(self.context, name, weights, len(self.context.weights), self.standardisation)

    def train(self) -> None:
        for weights in self.context.weights:
            self.expert(weights).train()

    def at(self, row: str, weights: Array) -> Asked:
        expert = self.expert(weights)
        return Asked(self.context.trained(expert.name, expert.folder), Targets())

    def cost(self, row: str) -> Cost:
        experts = [self.expert(weights) for weights in self.context.weights]
        used = sum(expert.rollouts for expert in experts)
        return Cost(
            policies=len(experts),
            rollouts=used,
            # The base and one adapter each.
            resident=1 + len(experts),
            point_rollouts=round(used / len(experts)),
            seconds=phase_seconds([expert.log for expert in experts]),
        )
