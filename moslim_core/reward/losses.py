"""The loss over all heads (docs/method.md section 2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from moslim_core.reward.heads import Head


def masked_loss(
    heads: Mapping[str, Head],
    outputs: Mapping[str, torch.Tensor],
    levels: Mapping[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """sum_i mean over labelled rows of the head's loss (ours).

    outputs {preference: (n, width_i)}, levels {preference: (n,), 0 = not labelled}, row weights by level {preference: (K_i,)}.
    A head without a labelled row in the batch adds nothing, but keeps the graph, so that every process has its gradient.
    """
    total = torch.zeros((), device=next(iter(outputs.values())).device)
    for name, values in outputs.items():
        labelled = levels[name] > 0
        if labelled.any():
            wanted = levels[name][labelled]
            losses = heads[name].row_losses(values[labelled], wanted)
            weight = weights[name].to(values.device)[wanted.round().long() - 1] if weights else torch.ones_like(losses)
            total = total + (weight * losses).sum() / weight.sum()
        else:
            total = total + values.sum() * 0.0
    return total
