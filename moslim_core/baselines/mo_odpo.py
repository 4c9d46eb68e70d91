"""MO-ODPO: one policy reads the weights of all preferences as numbers; Online DPO by the weighted sum of rewards (Gupta et al. 2025).

Weights are drawn from a flat Dirichlet distribution for every request, stated in the prompt, and r = sum w_i r_i. Ours: their place and
their one decimal, and all pairs of a request's answers with soft labels, as this project's own Online DPO has them. The source was read
in its abstract and summaries, not in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial

import numpy as np

from moslim_core.baselines.experts import ByOnlineDPO, OnePolicy, TrainedPolicy, WeightedExamples, sum_of_scores
from moslim_core.baselines.method import Array, Reworded
from moslim_core.policy.settings import PolicySettings
from moslim_core.preferences import Message, Targets
from moslim_core.registry import baseline
from moslim_core.settings_section import changed


def state(messages: Sequence[Message], weights: Sequence[float], names: Sequence[str]) -> list[Message]:
    """The conversation with weights, to one decimal, before its last turn's text."""
    stated = ", ".join(f"{name} {weight:.1f}" for name, weight in zip(names, weights, strict=True))
    return [*messages[:-1], {**messages[-1], "content": f"[{stated}]\n{messages[-1]['content']}"}]


class StatedExamples(WeightedExamples):
    """Requests that state the weights by which they are rewarded."""

    def requests(self, plain: list[Message], family: int, policy: PolicySettings, seed: int) -> list[tuple[list[Message], Targets]]:
        drawn = np.random.default_rng([seed, family]).dirichlet(np.ones(len(self.names)), policy.targets_per_prompt).tolist()
        return [(state(plain, weights, self.names), self.targets(weights)) for weights in drawn]


@baseline("mo_odpo")
class MOODPO(ByOnlineDPO, OnePolicy):
    rows = ("mo_odpo",)

    @cached_property
    def policy(self) -> TrainedPolicy:
        settings, schema = self.context.settings, self.context.schema
        own = changed(settings, policy=self.training(settings.policy), mapping=sum_of_scores(settings, schema))
        return TrainedPolicy(self.context, self.rows[0], own, StatedExamples(schema))

    def at(self, row: str, weights: Array) -> Reworded:
        return Reworded(self.system, partial(state, weights=weights.tolist(), names=self.context.schema.names))
