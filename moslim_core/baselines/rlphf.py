"""Prompted multi-objective RL: one policy reads which preferences are wanted, r is the sum of their rewards (P-MORL, Jang et al. 2023).

What is wanted is the best level of a preference, as the source asks for one extreme of each of its three; a prompt is answered under
several of the non-empty sets of preferences, all of which come up equally often. The instruction is worded as this project's. (ours)
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from functools import cached_property

from moslim_core.baselines.experts import PLAIN, OnePolicy, TrainedPolicy, best_levels, sum_of_scores
from moslim_core.baselines.method import Array, Asked
from moslim_core.policy.conditioning import Example, examples_under
from moslim_core.policy.settings import PolicySettings
from moslim_core.preferences import Message, PreferenceSchema, Targets
from moslim_core.registry import baseline
from moslim_core.settings_section import changed


class WantedExamples:
    """Training examples that ask for the best levels of a set of preferences."""

    def __init__(self, steered: PreferenceSchema) -> None:
        best = best_levels(steered)
        self.sets = [Targets({n: best[n] for n in names}) for size in range(len(best)) for names in itertools.combinations(best, size + 1)]

    def __call__(self, prompts: Sequence[Sequence[Message]], schema: PreferenceSchema, policy: PolicySettings, seed: int) -> list[Example]:
        rng = random.Random(seed)
        dealt: list[Targets] = []

        def draw(count: int) -> list[Targets]:
            while len(dealt) < count:
                dealt.extend(rng.sample(self.sets, len(self.sets)))
            return [dealt.pop(0) for _ in range(count)]

        return examples_under(draw, prompts, schema, policy, rng)


@baseline("rlphf")
class RLPHF(OnePolicy):
    rows = ("rlphf",)

    @cached_property
    def policy(self) -> TrainedPolicy:
        settings, schema = self.context.settings, self.context.schema
        chosen = changed(settings, policy=changed(settings.policy, **PLAIN), mapping=sum_of_scores(settings, schema))
        return TrainedPolicy(self.context, self.rows[0], chosen, WantedExamples(schema))

    def at(self, row: str, weights: Array) -> Asked:
        best = best_levels(self.context.schema)
        return Asked(self.system, Targets({n: best[n] for n, w in zip(self.context.schema.names, weights, strict=True) if w > 0}))
