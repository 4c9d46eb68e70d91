"""The loss over all heads (docs/method.md section 2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F

from moslim_core.reward.heads import Head

# How steeply the ranking loss falls with the difference of two scores in [0, 1].
SLOPE = 8.0


def ranking_loss(scores: torch.Tensor, levels: torch.Tensor, k: int) -> torch.Tensor:
    """Mean of softplus(-SLOPE (s_high - s_low)) over all pairs of a level above and one below the middle of 1..k (ours; RankNet's form).

    scores (n,) in [0, 1], levels (n,) -> a scalar in nats, 0 where there is no pair. Cross-entropy is content with a class more or less
    probable everywhere; what a policy learns from is which of two answers is better.
    """
    middle = (k + 1) / 2
    high, low = scores[levels > middle], scores[levels < middle]
    if not len(high) or not len(low):
        return scores.sum() * 0.0
    return F.softplus(-SLOPE * (high[:, None] - low[None])).mean()


def masked_loss(
    heads: Mapping[str, Head],
    outputs: Mapping[str, torch.Tensor],
    levels: Mapping[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor],
    coverage: Mapping[str, float],
    ranking_weight: float = 0.0,
) -> torch.Tensor:
    """sum_i (weighted sum over labelled rows of the head's loss) / (n * coverage_i), and each head's ranking loss (ours).

    outputs {preference: (n, width_i)}, levels {preference: (n,), 0 = not labelled}, weights {preference: (n,)} with mean 1 over the
    labelled rows of the data, coverage {preference: labelled share of all rows of the data}. On average over batches this is the sum of
    the heads' means over labelled rows; the mean of each batch's own labelled rows would give the one such row of a batch the
    weight of a whole batch. A head without a labelled row keeps the graph, so that every process has its gradient.
    """
    total = torch.zeros((), device=next(iter(outputs.values())).device)
    for name, values in outputs.items():
        labelled = levels[name] > 0
        if labelled.any():
            head, wanted = heads[name], levels[name][labelled]
            losses = head.row_losses(values[labelled], wanted)
            total = total + (weights[name][labelled] * losses).sum() / (len(values) * coverage[name])
            if ranking_weight:
                score = (head.log_probabilities(values[labelled]).exp() @ torch.linspace(0, 1, head.k, device=values.device)).clamp(0, 1)
                share = float(labelled.float().mean()) / coverage[name]
                total = total + ranking_weight * share * ranking_loss(score, wanted, head.k)
        else:
            total = total + values.sum() * 0.0
    return total
