"""CLP: the parts of one adapter, one per preference, are trained together under mixtures of them (conditional policies, Wang et al. 2024).

A step draws weights w from a flat Dirichlet distribution, mixes the parts by them, dW = sum w_i B_i A_i, and learns r = sum w_i r_i: soups
of experts that have met. No prompt says anything. Ours: one mixture a step, low-rank parts of all linear maps, where the source mixes the
parameters of some layers. The source was read in its abstract and summaries, not in full.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from moslim_core.baselines.experts import OnePolicy, TrainedPolicy, WeightedExamples, WithoutRequests, expert_settings
from moslim_core.baselines.merging import by_block, load_experts, mixed
from moslim_core.baselines.method import Array, Asked, at_point
from moslim_core.errors import UserError
from moslim_core.policy.learner import Learner
from moslim_core.policy.settings import PolicySettings
from moslim_core.preferences import Message, Targets
from moslim_core.registry import baseline
from moslim_core.settings import Settings
from moslim_core.settings_section import changed

SHARDED = (
    "clp mixes whole factors, and sharded weights (FSDP) share them out among processes.\n"
    "Set policy.accelerate=ddp, or leave clp out of --baselines."
)


def weights_of(step: int, parts: int, seed: int) -> list[float]:
    """The step's mixture: m weights that sum to 1."""
    return np.random.default_rng([seed, step]).dirichlet(np.ones(parts)).tolist()


class MixedExamples(WeightedExamples):
    """Without an instruction, by the weights of their step."""

    def requests(self, plain: list[Message], family: int, policy: PolicySettings, seed: int) -> list[tuple[list[Message], Targets]]:
        return [(plain, self.targets(weights_of(family // policy.prompts_per_step, len(self.names), seed)))]


class MixtureLearner(Learner):
    """An adapter of m parts, one below the other in its factors A. What learns are the parts; in use is the mixture of the step."""

    def __init__(self, base: Any, policy: PolicySettings, critic: Callable[[int], torch.nn.Module] | None, parts: int, seed: int) -> None:
        super().__init__(base, policy, critic, apart=True)
        if self.sharded:
            raise UserError(SHARDED)
        if any(len(p) != policy.lora_rank for name, p in self.used.items() if "lora_A" in name):
            # Of a mixture's packed experts PEFT puts all their factors one below the other.
            raise UserError("clp mixes parts of one adapter, which this model's experts leave no place for.\nLeave clp out of --baselines.")
        self.parts, self.seed = parts, seed
        self._use()

    def _mixture(self, rank: int) -> torch.Tensor:
        """(rank, 1): by what a row of A counts in the step that is going on."""
        return by_block(weights_of(int(self.updates) // self.policy.epochs, self.parts, self.seed), rank).to(self.device)

    def _use(self) -> None:
        super()._use()
        with torch.no_grad():
            for name, parameter in self.used.items():
                if "lora_A" in name:
                    parameter.copy_(self.learning[name] * self._mixture(len(parameter)))

    def _collect(self) -> None:
        for name, parameter in self.used.items():
            if "lora_A" in name and parameter.grad is not None:
                parameter.grad.mul_(self._mixture(len(parameter)).to(parameter.grad))
        super()._collect()


@baseline("clp")
class CLP(WithoutRequests, OnePolicy):
    rows = ("clp",)

    @classmethod
    def require_fit(cls, settings: Settings) -> None:
        if settings.policy.accelerate == "fsdp":
            raise UserError(SHARDED)

    @cached_property
    def policy(self) -> TrainedPolicy:
        settings, schema = self.context.settings, self.context.schema
        own = expert_settings(settings, schema, np.ones(len(schema)), 1, "none")
        # A vLLM server knows no mixture of parts, and GRPO's other way of normalising no weights of a request.
        policy = changed(
            own.policy,
            lora_rank=len(schema) * own.policy.lora_rank,
            engine="auto" if own.policy.engine == "vllm" else own.policy.engine,
            vllm_url=None,
            grpo=changed(own.policy.grpo, normalise="reward"),
        )
        own = changed(own, policy=policy)
        learner = partial(MixtureLearner, parts=len(schema), seed=settings.seed)
        return TrainedPolicy(self.context, self.rows[0], own, MixedExamples(schema), learner=learner)

    def at(self, row: str, weights: Array) -> Asked:
        base, tokenizer = self.context.chat_model(self.context.settings.model.base)
        model = mixed(load_experts(base, [self.policy.folder]), weights.tolist())
        name = at_point(row, weights)
        return Asked(self.context.system(name, model, tokenizer), Targets())
