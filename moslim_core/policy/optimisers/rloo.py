"""RLOO: leave-one-out baselines over the answers to the same request, REINFORCE on whole answers (Ahmadian et al. 2024).

Not covered: several minibatches within a step; an update uses all of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moslim_core.policy.advantages import clipped
from moslim_core.policy.optimisers import Optimiser, with_advantages
from moslim_core.policy.relabelling import leave_one_out
from moslim_core.policy.rollouts import RolloutBatch
from moslim_core.registry import optimiser
from moslim_core.training.distributed import total


def normalised(advantages: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """`advantages` by their standard deviation over the step: (r,), or (r, c) with `mask` 1 on tokens. Their mean is 0 as it is."""
    squares, count = total(torch.stack([(advantages**2 / weight.clamp(min=1e-6)).sum(), mask.sum()]).double())
    return advantages / float((squares / (count - 1).clamp(min=1)).sqrt() + 1e-4)


def answer_loss(log_probs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float, rows: int) -> Tensor:
    """Sum over answers of -min(rho A, clip(rho) A), divided by `rows`; rho is the probability ratio of the whole answer.

    `log_probs`, `old`, `mask` (r, c), log-probabilities in nats; `advantages` (r,).
    """
    ratio = torch.exp(((log_probs - old) * mask).sum(dim=1))
    return -clipped(ratio, advantages, clip).sum() / rows


def token_loss(log_probs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float, count: int) -> Tensor:
    """The same of single tokens, `advantages` (r, c), divided by `count`."""
    return -(clipped(torch.exp(log_probs - old), advantages, clip) * mask).sum() / count


@optimiser("rloo")
class RLOO(Optimiser):
    def prepared(self, batch: RolloutBatch) -> tuple[RolloutBatch, dict[str, float]]:
        returns, weight, mask = self.returns(batch), batch.weight, torch.ones_like(batch.weight)
        if returns.dim() == 2:
            weight, mask = weight.unsqueeze(1).expand_as(returns), batch.mask
        advantages = batch.pairs.by_table(leave_one_out, weight, returns) * mask
        return with_advantages(batch, normalised(advantages, weight, mask) if self.policy.normalise_advantages else advantages), {}

    def loss(self, batch: RolloutBatch, log_probs: Tensor, values: Tensor | None) -> Tensor:
        # As of whole answers: a sum over tokens, a mean over answers.
        of = answer_loss if batch.advantages.dim() == 1 else token_loss
        surrogate = of(log_probs, batch.old, batch.advantages, batch.mask, self.policy.clip, batch.rows)
        return surrogate + self.penalty(batch, log_probs).sum() / batch.rows
