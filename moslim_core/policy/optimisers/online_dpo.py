"""Online DPO (Guo et al. 2024) over all pairs of a table, with the reward model's own certainty: a preference has a probability (ours).

Of two answers the first is preferred with probability sigmoid(r_1 - r_2), as Bradley and Terry have it. Where both are about as good,
hard labels push at random, with full force; here such a pair pulls back to the reference. The loss is that of DPO in expectation over
labels (conservative DPO, Mitchell 2023, with a smoothing per pair), and its optimum that of RL with the same beta,
pi / pi_ref ~ exp(r / beta). Which answers are compared does not matter to that optimum: they need no weights, whoever wrote them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moslim_core.policy.optimisers import Optimiser
from moslim_core.policy.rollouts import RolloutBatch
from moslim_core.policy.settings import PolicySettings
from moslim_core.registry import optimiser


def preference_losses(log_ratios: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """Losses (a, ...) in nats of a answers to one request: of each the mean over the pairs that it is in.

    `log_ratios`: log pi / pi_ref of whole answers, (a, ...), as `rewards`. A pair's loss is the cross-entropy of
    sigmoid(beta * difference of log-ratios) against sigmoid(difference of rewards).
    """
    preferred = torch.sigmoid(rewards.unsqueeze(1) - rewards.unsqueeze(0))
    margins = beta * (log_ratios.unsqueeze(1) - log_ratios.unsqueeze(0))
    losses = -preferred * F.logsigmoid(margins) - (1 - preferred) * F.logsigmoid(-margins)
    others = ~torch.eye(len(rewards), dtype=torch.bool, device=rewards.device)
    return (losses * others.view(*others.shape, *[1] * (rewards.dim() - 1))).sum(dim=1) / max(1, len(rewards) - 1)


def log_ratios(batch: RolloutBatch, log_probs: Tensor) -> Tensor:
    """log pi / pi_ref of whole answers, (r,), in nats."""
    assert batch.reference is not None
    return ((log_probs - batch.reference) * batch.mask).sum(dim=1)


@optimiser("online_dpo")
class OnlineDPO(Optimiser):
    own_kl = None
    compares = True
    looks_back = False

    @classmethod
    def unfit(cls, policy: PolicySettings) -> str | None:
        if policy.beta == 0:
            return "its loss is flat at beta=0: give more, say 0.1"
        if policy.credit == "token":
            return "it compares whole answers: set credit=answer"
        if policy.kl is not None:
            return f"kl={policy.kl}, but its beta is the divergence's weight already: leave kl out"
        return None

    def loss(self, batch: RolloutBatch, log_probs: Tensor, values: Tensor | None) -> Tensor:
        losses = batch.pairs.by_table(lambda d, r: preference_losses(d, r, self.beta), log_ratios(batch, log_probs), batch.rewards)
        return losses.sum() / batch.rows
