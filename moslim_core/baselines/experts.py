"""Policies of compared methods, trained by the stage's own RL: with r = sum w_i r_i and no instructions, one per weight vector.

That is what MORLHF is, and what Rewarded Soups starts from.

r_i is the expected score of head i. It needs no reward of its own: under requests of every preference's best level, the mapping's
`ordinal` utility is that score, and its weights are w. Data, optimiser and answers per prompt are those of the settings. (ours)
"""

from __future__ import annotations

import math
import random
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from moslim_core.baselines.method import Array, Context, Cost, Method, phase_seconds, rollouts
from moslim_core.data.rows import plain_text
from moslim_core.errors import UserError
from moslim_core.evaluation.system import System
from moslim_core.policy import training
from moslim_core.policy.artifact import PolicyCard
from moslim_core.policy.conditioning import Example, in_turn
from moslim_core.policy.learner import Learner
from moslim_core.policy.optimisers import Optimiser, require_fit
from moslim_core.policy.settings import PolicySettings
from moslim_core.preferences import Message, PreferenceSchema, Targets, condition
from moslim_core.reward.settings import MappingSettings
from moslim_core.settings import Settings
from moslim_core.settings_section import changed
from moslim_core.training.distributed import is_first
from moslim_core.training.progress import Progress

Standardisation = Literal["none", "running"]
# What this project's own training may do, and a compared one does not.
PLAIN: dict[str, Any] = {"held_out_fraction": 0.0, "warm_start": "none", "cross_talk_penalty": 0.0}


def best_levels(schema: PreferenceSchema) -> Targets:
    """Of each preference the level with the highest score that may be requested."""
    return schema.targets({p.name: max(p.requestable, key=p.score) for p in schema.preferences})


def strength(mapping: MappingSettings, schema: PreferenceSchema) -> float:
    """What a preference's whole range is worth on average in the profile's rewards. (ours)

    Rewards in [0, 1] alone would leave a compared method's preferences less certain than this project's, and its training weaker.
    """
    if mapping.aggregation != "sum":
        return 1.0
    return sum(mapping.weights.get(name, 1.0) for name in schema.names) / len(schema)


def sum_of_scores(settings: Settings, schema: PreferenceSchema) -> MappingSettings:
    """r = sum r_i of the preferences whose best level is asked for, each as strong as in the profile."""
    return weighted_sum(schema, strength(settings.mapping, schema) * np.ones(len(schema)))


def weighted_sum(schema: PreferenceSchema, weights: Array, standardisation: Standardisation = "none") -> MappingSettings:
    """r = sum w_i r_i of (m,) weights."""
    named = dict(zip(schema.names, weights.tolist(), strict=True))
    return MappingSettings(utility="ordinal", standardisation=standardisation, aggregation="sum", weights=named)


def without_requests(policy: PolicySettings) -> PolicySettings:
    """The answers that a prompt gets under several targets it gets without targets; there are no requests to relabel."""
    return changed(policy, group_size=policy.group_size * policy.targets_per_prompt, targets_per_prompt=1, relabel=False)


def expert_settings(
    settings: Settings, schema: PreferenceSchema, weights: Array, policies: int, standardisation: Standardisation
) -> Settings:
    """The settings of one of `policies` trainings that share the budget, under (m,) weights of the preferences `schema`."""
    policy = settings.policy
    steps = math.ceil(policy.steps / policies)
    # Of fewer steps the mean is that of as large a part.
    average = math.ceil(policy.average_steps * steps / policy.steps)
    own = changed(without_requests(policy), steps=steps, average_steps=average, **PLAIN)
    # Standardised rewards bring a strength of their own.
    scale = strength(settings.mapping, schema) if standardisation == "none" else 1.0
    return changed(settings, policy=own, mapping=weighted_sum(schema, scale * weights, standardisation))


class ExamplesInTurn(ABC):
    """Training examples of prompts that come up equally often, each a family whose requests a method words in its own way."""

    def __call__(self, prompts: Sequence[Sequence[Message]], schema: PreferenceSchema, policy: PolicySettings, seed: int) -> list[Example]:
        """steps x prompts_per_step families, as of `policy.conditioning.training_examples`."""
        return [
            Example(conversation, plain_text(prompt), targets, family, prompt)
            for family, prompt in enumerate(in_turn(prompts, policy, random.Random(seed)))
            for conversation, targets in self.requests(condition(prompt, Targets(), schema, policy.placement), family, policy, seed)
        ]

    @abstractmethod
    def requests(self, plain: list[Message], family: int, policy: PolicySettings, seed: int) -> list[tuple[list[Message], Targets]]:
        """(what the policy reads, what it is rewarded for) of each request of a family, whose conversation without one is `plain`."""


class PlainExamples(ExamplesInTurn):
    """Without an instruction, all rewarded for `targets`, one group a prompt."""

    def __init__(self, targets: Targets) -> None:
        self.targets = targets

    def requests(self, plain: list[Message], family: int, policy: PolicySettings, seed: int) -> list[tuple[list[Message], Targets]]:
        return [(plain, self.targets)]


class WeightedExamples(ExamplesInTurn):
    """Rewarded for the best levels of the preferences `steered`, by weights."""

    def __init__(self, steered: PreferenceSchema) -> None:
        self.names, self.best = steered.names, best_levels(steered)

    def targets(self, weights: Sequence[float]) -> Targets:
        """The best levels, under (m,) weights of the preferences."""
        return Targets(self.best, dict(zip(self.names, weights, strict=True)))


class ExpertProgress(Progress):
    """One of several policies' progress: its metrics stand in a log of its own, and under its name in the stage's."""

    def __init__(self, name: str, log: Path, stage: Progress) -> None:
        super().__init__(log if is_first() else None)
        log.parent.mkdir(parents=True, exist_ok=True)
        self.name, self.stage = name, stage

    def metrics(self, values: dict[str, float], step: int) -> None:
        super().metrics(values, step)
        self.stage.metrics({f"{self.name}/{key}": value for key, value in values.items()}, step)

    def update(self, phase: str, done: int, total: int) -> None:
        self.stage.update(f"{phase} {self.name}", done, total)


class TrainedPolicy:
    """A policy of a method, in a folder of its own. `name`: its own within the method; `optimiser`, `learner`: the method's own."""

    def __init__(
        self,
        context: Context,
        name: str,
        settings: Settings,
        examples_of: training.Examples,
        optimiser: type[Optimiser] | None = None,
        learner: Callable[..., Learner] = Learner,
    ) -> None:
        self.context, self.name, self.settings = context, name, settings
        self.examples_of, self.optimiser, self.learner = examples_of, optimiser, learner
        self.folder = context.work / "policies" / name
        self.log = context.work / "logs" / f"{name}.jsonl"

    def train(self) -> None:
        """Once: what is there stays, and what was interrupted goes on."""
        if self.folder.is_dir():
            return
        context = self.context
        partial = self.folder.with_name(f"{self.name}.partial")
        if is_first():
            shutil.rmtree(partial, ignore_errors=True)
        training.train(
            self.settings,
            data=context.rows,
            reward_model=context.reward_model,
            cache=context.cache,
            checkpoints=context.work / "checkpoints" / self.name,
            output=partial,
            progress=ExpertProgress(self.name, self.log, context.progress),
            examples_of=self.examples_of,
            optimiser_of=self.optimiser,
            learner_of=self.learner,
        )
        if is_first():
            partial.rename(self.folder)

    @property
    def rollouts(self) -> int:
        """Answers that its training drew."""
        return rollouts(self.settings.policy, PolicyCard.load(self.folder).steps)


def by_online_dpo(policy: PolicySettings) -> PolicySettings:
    """The settings of a method that trains by Online DPO, whatever the profile's optimiser is."""
    return changed(policy, optimiser="online_dpo", kl=None, credit="answer", **PLAIN)


class WithoutRequests(Method):
    """A method whose policies read no request."""

    @classmethod
    def training(cls, policy: PolicySettings) -> PolicySettings:
        return without_requests(policy)


class ByOnlineDPO(Method):
    """A method that trains by Online DPO, whatever the profile's optimiser is."""

    @classmethod
    def training(cls, policy: PolicySettings) -> PolicySettings:
        return by_online_dpo(super().training(policy))

    @classmethod
    def require_fit(cls, settings: Settings) -> None:
        try:
            require_fit(by_online_dpo(settings.policy))
        except UserError as error:
            raise UserError(f"{cls.rows[0]} trains by Online DPO whatever the profile does: {error}") from error


class OnePolicy(Method):
    """A method that trains one policy, `policy`, and answers by it at every operating point."""

    free_points = True

    @property
    @abstractmethod
    def policy(self) -> TrainedPolicy:
        """The one policy: its settings and its folder."""

    def train(self) -> None:
        self.policy.train()

    @cached_property
    def system(self) -> System:
        """The trained policy under evaluation."""
        return self.context.trained(self.rows[0], self.policy.folder)

    def cost(self, row: str) -> Cost:
        # The base and its adapter.
        return Cost(policies=1, rollouts=self.policy.rollouts, resident=2, seconds=phase_seconds([self.policy.log]))


class Expert(TrainedPolicy):
    """A policy trained for one weight vector, (m,), being one of so many `policies` that share the budget."""

    def __init__(self, context: Context, name: str, weights: Array, policies: int, standardisation: Standardisation = "none") -> None:
        settings = expert_settings(context.settings, context.schema, weights, policies, standardisation)
        super().__init__(context, name, settings, PlainExamples(best_levels(context.schema)))
