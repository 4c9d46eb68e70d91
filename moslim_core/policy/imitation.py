"""The likelihood of each request's best answer, beside the optimiser's loss: what is liked is also imitated.

A loss that compares answers may make both less probable and still tell them apart; a small model then drifts from English and forgets to
end. A little of the best answer's likelihood holds it (as in RPO: Pang et al. 2024, arXiv 2404.19733, equation 1; there with one pair).
"""

from __future__ import annotations

from torch import Tensor

from moslim_core.policy.learner import Loss
from moslim_core.policy.rollouts import RolloutBatch


def best_answers_loss(batch: RolloutBatch, log_probs: Tensor) -> Tensor:
    """Of the answer with the highest reward under each request of a table, of equals their mean: nats per token, by the step's rows.

    Where all rewards are alike, as where nothing was requested, no answer is the best. `log_probs` (r, c); a scalar, this process's part.
    """
    nats = -(log_probs * batch.mask).sum(dim=1) / batch.mask.sum(dim=1).clamp(min=1)
    return (nats * batch.pairs.by_table(_best, batch.rewards)).sum() / batch.rows


def _best(rewards: Tensor) -> Tensor:
    """Of rewards (a, t) of answers under requests: 1 for the best answer to each, shared out among equals; 0 where none is better."""
    best = (rewards == rewards.amax(dim=0)) & (rewards.amax(dim=0) > rewards.amin(dim=0))
    return best / best.sum(dim=0).clamp(min=1)


def with_imitation(loss: Loss, weight: float) -> Loss:
    """`loss` with `weight` times that of the best answers."""
    if not weight:
        return loss
    return lambda batch, log_probs, values: loss(batch, log_probs, values) + weight * best_answers_loss(batch, log_probs)
