"""The loss over all heads (docs/method.md section 2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from moslim_core.reward.heads import Head


def masked_loss(
    heads: Mapping[str, Head],
    outputs: Mapping[str, torch.Tensor],
    levels: Mapping[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor],
    coverage: Mapping[str, float],
) -> torch.Tensor:
    """sum_i (weighted sum over labelled rows of the head's loss) / (n * coverage_i) (ours).

    outputs {preference: (n, width_i)}, levels {preference: (n,), 0 = not labelled}, row weights by level {preference: (K_i,)},
    coverage {preference: mean weight over all rows of the data, 0 for one that is not labelled}. On average over batches this is the
    sum of the heads' means over labelled rows; the mean of each batch's own labelled rows would give the one such row of a batch the
    weight of a whole batch. A head without a labelled row keeps the graph, so that every process has its gradient.
    """
    total = torch.zeros((), device=next(iter(outputs.values())).device)
    for name, values in outputs.items():
        labelled = levels[name] > 0
        if labelled.any():
            wanted = levels[name][labelled]
            weight = weights[name].to(values.device)[wanted.round().long() - 1]
            total = total + (weight * heads[name].row_losses(values[labelled], wanted)).sum() / (len(values) * coverage[name])
        else:
            total = total + values.sum() * 0.0
    return total
