"""Best of n: the starting model answers n times under the instructions, and the mapping picks (after Stiennon et al. 2020).

n is the rollout budget over the answers that the front needs, rounded up: what others draw to train is drawn to choose from. (ours)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from moslim_core.baselines import prompt_only
from moslim_core.baselines.method import Answering, Asked, Cost, LevelBased, rollouts
from moslim_core.data.rows import plain_text
from moslim_core.policy.generation import Answer, Sampling
from moslim_core.policy.penalties import Penalties
from moslim_core.preferences import Message, Targets
from moslim_core.registry import baseline
from moslim_core.reward.mapping import RewardMapping
from moslim_core.reward.scorer import RewardScorer
from moslim_core.reward.settings import MappingSettings


@dataclass(frozen=True)
class BestOf:
    """Of `n` answers of `conditioned` to each prompt the one with the highest mapped reward, less its penalties; the first of equals."""

    conditioned: Asked
    n: int
    scorer: RewardScorer
    mapping: MappingSettings
    penalties: Penalties

    def answers(self, what: str, conversations: Sequence[Sequence[Message]], sampling: Sampling) -> list[Answer | None]:
        """Of n answers to each conversation the one that the mapping likes best."""
        system, targets = self.conditioned.system, self.conditioned.targets
        prompts = [system.conditioned(c, targets, place) for place, c in enumerate(conversations)]
        drawn = system.answers(what, [c for c in prompts for _ in range(self.n)], sampling)
        # A prompt that has no room for an answer has none for any of its answers.
        rows = [(place, answer) for place in range(len(prompts)) for answer in drawn[place * self.n : (place + 1) * self.n] if answer]
        rewards = self.rewards([plain_text(conversations[place]) for place, _ in rows], [answer for _, answer in rows])
        best: list[Answer | None] = [None] * len(prompts)
        highest = np.full(len(prompts), -np.inf)
        for (place, answer), reward in zip(rows, rewards, strict=True):
            if reward > highest[place]:
                best[place], highest[place] = answer, reward
        return best

    def rewards(self, questions: Sequence[str], answers: Sequence[Answer]) -> np.ndarray:
        """(n,) rewards, less penalties, of answers to plain questions; the mapping's statistics, if it wants some, are of these answers."""
        mapping, texts = RewardMapping(self.scorer.schema, self.mapping), [answer.text for answer in answers]
        probabilities, wanted = self.scorer(questions, texts), [self.conditioned.targets] * len(answers)
        if self.mapping.standardisation == "reference":
            mapping.fit_reference(probabilities, wanted)
        lost, _ = self.penalties(questions, texts, [answer.truncated for answer in answers])
        return mapping(probabilities, wanted).rewards - lost


@baseline("best_of_n")
class BestOfN(LevelBased):
    rows = ("best_of_n",)
    trained = False
    mapped = True

    @property
    def n(self) -> int:
        """Answers drawn for one given: what the budget of training answers comes to."""
        policy = self.context.settings.policy
        return max(2, math.ceil(rollouts(policy, policy.steps) / (len(self.context.prompts) * len(self.context.weights))))

    @cached_property
    def start(self) -> prompt_only.PromptOnly:
        return prompt_only.PromptOnly(self.context)

    def under(self, targets: Targets) -> Answering:
        context = self.context
        return BestOf(Asked(self.start.system, targets), self.n, context.scorer, context.settings.mapping, context.penalties)

    def cost(self, row: str) -> Cost:
        return Cost(policies=0, rollouts=0, resident=2, drawn=self.n)
