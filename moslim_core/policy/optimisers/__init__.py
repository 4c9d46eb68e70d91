"""Optimisers: what a step's rows are worth, and the loss that learns from it. One is a module here. (ours)"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from moslim_core.errors import UserError
from moslim_core.policy.advantages import divergence_estimate
from moslim_core.policy.rollouts import RolloutBatch
from moslim_core.policy.settings import PolicySettings
from moslim_core.registry import optimiser
from moslim_core.reward.mapping import RewardMapping


class Optimiser(ABC):
    """Two pure functions of a batch, `prepared` and `loss`; what changes from step to step is in `state`.

    The divergence from the starting policy counts in the `reward` of whole answers, or as a `loss` of its own; `own_kl` says where by
    default, None for an optimiser whose loss has a place of its own for it.
    """

    own_kl: str | None = "reward"
    # Whether its loss needs reference log-probabilities of every answer under every request, not only where it was drawn.
    compares = False
    # Whether it needs log-probabilities as they were when the step began: for weights, probability ratios, advantages.
    looks_back = True
    # What makes a critic of the policy's hidden size, for an optimiser that has one.
    critic: type[nn.Module] | None = None

    def __init__(self, policy: PolicySettings, mapping: RewardMapping) -> None:
        self.policy, self.mapping = policy, mapping
        self.kl = policy.kl or self.own_kl
        self.beta = policy.beta

    @classmethod
    def unfit(cls, policy: PolicySettings) -> str | None:
        """What in the settings does not go with it, in a line that says what to do; None where all does."""
        return None

    def prepared(self, batch: RolloutBatch) -> tuple[RolloutBatch, dict[str, float]]:
        """(the batch with its advantages, figures by name), once for all updates of a step."""
        return batch, {}

    @abstractmethod
    def loss(self, batch: RolloutBatch, log_probs: Tensor, values: Tensor | None) -> Tensor:
        """This process's part of the step's loss, of log-probabilities and a critic's values, each (r, c), as they are now.

        A sum over tables: it is called with a batch of some of them, whose `rows` and `tokens` are the whole step's.
        """

    def state(self) -> dict[str, Any]:
        """What goes on from here, as JSON data."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027 - most have none
        """Go on from what `state` gave."""

    def returns(self, batch: RolloutBatch) -> Tensor:
        """Rewards, (r,) or (r, c), less beta times the divergence of whole answers, or of what is left of them at a token."""
        if self.kl != "reward" or not self.beta:
            return batch.rewards
        divergence = batch.divergence
        left = divergence.flip(1).cumsum(dim=1).flip(1) if batch.rewards.dim() == 2 else divergence.sum(dim=1)
        return batch.rewards - self.beta * left

    def penalty(self, batch: RolloutBatch, log_probs: Tensor) -> Tensor:
        """beta times the estimated divergence (r, c) of tokens where answers are at home; 0 where it counts in the reward.

        Times the probability ratio, without which its gradient is not that of the divergence (DeepSeek-V3.2; so in TRL).
        """
        if self.kl != "loss" or batch.reference is None:
            return log_probs.new_zeros(())
        at_home = (batch.pairs.home == batch.pairs.home.new_tensor(range(len(batch.pairs.home)))).to(log_probs.device)
        ratio = torch.exp(log_probs - batch.old)
        return self.beta * ratio * divergence_estimate(log_probs, batch.reference) * (batch.mask * at_home.unsqueeze(1))


def with_advantages(batch: RolloutBatch, advantages: Tensor, returns: Tensor | None = None) -> RolloutBatch:
    """The batch with `advantages` (r,) or (r, c), and `returns` (r, c) where a critic learns."""
    return replace(batch, advantages=advantages, returns=batch.returns if returns is None else returns)


def optimiser_class(name: str) -> type[Optimiser]:
    """The optimiser of that name. Raises UserError where there is none."""
    return optimiser[name]


def require_fit(policy: PolicySettings) -> None:
    """Raises UserError where settings do not go with the optimiser."""
    reason = optimiser_class(policy.optimiser).unfit(policy)
    if reason is not None:
        raise UserError(f"policy.optimiser={policy.optimiser}: {reason}")
