"""The likelihood of each request's best answer, beside the optimiser's loss: what is liked is also imitated.

A loss that compares answers may make both less probable and still tell them apart; a small model then drifts from English and forgets to
end. A little of the best answer's likelihood holds it (as in RPO: Pang et al. 2024, arXiv 2404.19733, equation 1; there with one pair).
"""

from __future__ import annotations

from torch import Tensor

from moslim_core.policy.learner import Loss
from moslim_core.policy.rollouts import RolloutBatch


def best_answers_loss(batch: RolloutBatch, log_probs: Tensor) -> Tensor:
    """Of the answers with the highest reward under each request of a table: nats per token, their sum over the step's rows.

    `log_probs` (r, c); a scalar, this process's part of it.
    """
    nats = -(log_probs * batch.mask).sum(dim=1) / batch.mask.sum(dim=1).clamp(min=1)
    best = batch.pairs.by_table(lambda n, rewards: n * (rewards == rewards.amax(dim=0)), nats, batch.rewards)
    return best.sum() / batch.rows


def with_imitation(loss: Loss, weight: float) -> Loss:
    """`loss` with `weight` times that of the best answers."""
    if not weight:
        return loss
    return lambda batch, log_probs, values: loss(batch, log_probs, values) + weight * best_answers_loss(batch, log_probs)
