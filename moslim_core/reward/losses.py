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

    outputs {preference: (n, width_i)}, levels {preference: (n,), 0 = not labelled}, weights {preference: (n,)} with mean 1 over the
    labelled rows of the data, coverage {preference: labelled share of all rows of the data}. On average over batches this is the sum of
    the heads' means over labelled rows; the mean of each batch's own labelled rows would give the one such row of a batch the
    weight of a whole batch. A head without a labelled row keeps the graph, so that every process has its gradient.
    """
    total = torch.zeros((), device=next(iter(outputs.values())).device)
    for name, values in outputs.items():
        labelled = levels[name] > 0
        if labelled.any():
            losses = heads[name].row_losses(values[labelled], levels[name][labelled])
            total = total + (weights[name][labelled] * losses).sum() / (len(values) * coverage[name])
        else:
            total = total + values.sum() * 0.0
    return total
