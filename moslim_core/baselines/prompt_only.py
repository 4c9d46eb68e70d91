"""The starting model with the instructions and no training: what all others are measured against."""

from __future__ import annotations

from functools import cached_property

from moslim_core.baselines.method import ByInstruction, Cost
from moslim_core.evaluation.system import System
from moslim_core.registry import baseline


@baseline("prompt_only")
class PromptOnly(ByInstruction):
    rows = ("prompt_only",)
    trained = False

    @cached_property
    def system(self) -> System:
        return self.context.system(self.rows[0], *self.context.chat_model(self.context.settings.model.base))

    def cost(self, row: str) -> Cost:
        return Cost(reward_models=0, policies=0, rollouts=0, resident=1)
