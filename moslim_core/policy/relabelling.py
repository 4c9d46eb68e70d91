"""Every answer counts under every request that was made of its prompt (ours).

The reward model never sees the request, so that one pass tells how good an answer is for each of them. An answer drawn under one
request is taken as drawn from the mixture of all, and weighs pi(answer | request) / mixture(answer) under each: multiple importance
sampling with the balance heuristic (Veach & Guibas 1995). While the policy hardly heeds requests, every answer counts for all, and
what would move all of them alike cancels out; once it tells them apart, each answer counts for its own, as in plain RLOO.
"""

from __future__ import annotations

import torch
from torch import Tensor


def weights(log_probs: Tensor) -> Tensor:
    """pi(a | t) / mean_s pi(a | s), in [0, t], of sequence log-probabilities (a, t) under as many answers to each request."""
    return torch.softmax(log_probs, dim=1) * log_probs.shape[1]


def leave_one_out(weight: Tensor, returns: Tensor) -> Tensor:
    """Weighted advantages (a, t, ...) of one table's answers under its requests, of their weights and returns, each (a, t, ...).

    The baseline is the weighted mean over the other answers. Where the policy tells requests apart for certain, that is the
    leave-one-out baseline over the answers to the same request (Ahmadian et al. 2024).
    """
    others = weight.sum(dim=0) - weight
    baseline = ((weight * returns).sum(dim=0) - weight * returns) / others.clamp(min=1e-6)
    return torch.where(others > 1e-6, weight * (returns - baseline), 0.0)


def centred(weight: Tensor, values: Tensor) -> Tensor:
    """Values (a, t, ...) less their weighted mean over one table's answers under the same request."""
    return values - (weight * values).sum(dim=0) / weight.sum(dim=0).clamp(min=1e-6)


def standardised(weight: Tensor, values: Tensor) -> Tensor:
    """`centred` by the weighted standard deviation over the same answers, unbiased (reliability weights); 0 where there is no spread."""
    apart = centred(weight, values)
    count = weight.sum(dim=0)
    freedom = count - (weight**2).sum(dim=0) / count.clamp(min=1e-6)
    variance = (weight * apart**2).sum(dim=0) / freedom.clamp(min=1e-6)
    return apart / (variance.sqrt() + 1e-4)
