"""This project's method: the one policy of stage `train_policy`, asked for levels; a row per optimiser."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from moslim_core.baselines.method import ByInstruction, Context, Cost, phase_seconds, rollouts
from moslim_core.evaluation.system import System
from moslim_core.policy.artifact import TRAINING_LOG, PolicyCard
from moslim_core.registry import baseline


@baseline("moslim")
class Moslim(ByInstruction):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.rows = (f"moslim_{context.settings.policy.optimiser}",)

    @property
    def folder(self) -> Path:
        assert self.context.policy is not None, "the stage was given a policy"
        return self.context.policy

    @cached_property
    def system(self) -> System:
        return self.context.trained(self.rows[0], self.folder)

    def cost(self, row: str) -> Cost:
        steps = PolicyCard.load(self.folder).steps
        return Cost(
            policies=1,
            rollouts=rollouts(self.context.settings.policy, steps),
            # The base and its adapter.
            resident=2,
            seconds=phase_seconds([self.folder / TRAINING_LOG]),
        )
