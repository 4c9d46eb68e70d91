"""GRPO: advantages normalised within the answers to the same request, clipped tokens, the divergence in the loss (Shao et al. 2024).

The loss is a mean over the step's tokens (DAPO, Yu et al. 2025), so that long answers are not held back. Normalised per preference it is
GDPO's way of adding rewards up (Liu et al. 2026).
"""

from __future__ import annotations

import torch
from torch import Tensor

from moslim_core.policy.optimisers import Optimiser, with_advantages
from moslim_core.policy.optimisers.rloo import token_loss
from moslim_core.policy.relabelling import centred, standardised
from moslim_core.policy.rollouts import RolloutBatch
from moslim_core.policy.settings import PolicySettings
from moslim_core.registry import optimiser
from moslim_core.training.distributed import total


def summed(utilities: Tensor, weights: Tensor, weight: Tensor, batch: RolloutBatch) -> Tensor:
    """Utilities (r, m) normalised one by one within their tables, summed by `weights` (m,), then normalised over the step; (r,).

    What is NaN, a preference that is not requested, adds nothing.
    """
    normalised = torch.nan_to_num(batch.pairs.by_table(standardised, weight.unsqueeze(1).expand_as(utilities), utilities))
    sums = (normalised * weights).sum(dim=1)
    mean, count = total(torch.stack([(weight * sums).sum(), weight.sum()]).double())
    apart = sums - float(mean / count)
    variance = total((weight * apart**2).sum().double()) / (count - 1).clamp(min=1)
    return apart / float(variance.sqrt() + 1e-4)


@optimiser("grpo")
class GRPO(Optimiser):
    own_kl = "loss"

    @classmethod
    def unfit(cls, policy: PolicySettings) -> str | None:
        if policy.grpo.normalise == "per_preference" and policy.credit == "token":
            return "credit=token credits the reward, not one preference: set grpo.normalise=reward or credit=answer"
        if policy.grpo.normalise == "per_preference" and policy.kl == "reward":
            return "grpo.normalise=per_preference takes no KL in the reward: set kl=loss"
        return None

    def prepared(self, batch: RolloutBatch) -> tuple[RolloutBatch, dict[str, float]]:
        weight = batch.weight
        if self.policy.grpo.normalise == "per_preference":
            schema = self.mapping.schema
            weights = batch.utilities.new_tensor([self.mapping.settings.weights.get(name, 1.0) for name in schema.names])
            return with_advantages(batch, weight * summed(batch.utilities, weights, weight, batch)), {}
        returns = self.returns(batch)
        if returns.dim() == 2:
            weight = weight.unsqueeze(1) * batch.mask
        way = standardised if self.policy.normalise_advantages else centred
        return with_advantages(batch, weight * batch.pairs.by_table(way, weight, returns)), {}

    def loss(self, batch: RolloutBatch, log_probs: Tensor, values: Tensor | None) -> Tensor:
        advantages = batch.advantages.unsqueeze(1).expand_as(log_probs) if batch.advantages.dim() == 1 else batch.advantages
        surrogate = token_loss(log_probs, batch.old, advantages, batch.mask, self.policy.clip, batch.tokens)
        return surrogate + self.penalty(batch, log_probs).sum() / batch.tokens
