"""Losses of the heads (docs/method.md section 2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F


def masked_cross_entropy(
    logits: Mapping[str, torch.Tensor],
    levels: Mapping[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """sum_i mean over labelled rows of CE_i (ours).

    logits {preference: (n, K_i)}, levels {preference: (n,), 0 = not labelled}, class weights {preference: (K_i,)}.
    A head without a labelled row in the batch adds nothing, but keeps the graph, so that every process has its gradient.
    """
    total = torch.zeros((), device=next(iter(logits.values())).device)
    for name, values in logits.items():
        labelled = levels[name] > 0
        if labelled.any():
            weight = weights[name].to(values.device) if weights else None
            total = total + F.cross_entropy(values[labelled], levels[name][labelled] - 1, weight=weight)
        else:
            total = total + values.sum() * 0.0
    return total
