"""The loss over all heads (docs/method.md section 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

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


def expected_score(head: Head, outputs: torch.Tensor) -> torch.Tensor:
    """outputs (n, width) -> the expected level as a share of the way from 1 to K, (n,) in [0, 1]."""
    return (head.log_probabilities(outputs).exp() @ torch.linspace(0, 1, head.k, device=outputs.device)).clamp(0, 1)


class Choices(NamedTuple):
    """Of a batch's sequences those that were chosen over another on one preference.

    better, worse (p,): their places; preference (p,): the head's number; sign (m,): 1 for each head whose high levels are the better
    ones, else -1; coverage (m,): the share of all rows of the data that are choices on it.
    """

    better: torch.Tensor
    worse: torch.Tensor
    preference: torch.Tensor
    sign: Sequence[float]
    coverage: Sequence[float]


def choice_loss(heads: Mapping[str, Head], outputs: Mapping[str, torch.Tensor], choices: Choices, rows: int) -> torch.Tensor:
    """sum_i (sum over choices on i of softplus(-SLOPE (s_better - s_worse))) / (rows * coverage_i), a scalar in nats (ours).

    outputs {preference: (sequences, width_i)}; s is the expected score, from the better end of the preference. Bradley and Terry's
    likelihood of a choice with a bounded score, so that it says which answer is better and never which level one has. On average over
    batches this is the sum of the heads' means over their choices, as the masked loss is over their labelled rows.
    """
    total = torch.zeros((), device=choices.better.device)
    for number, (name, head) in enumerate(heads.items()):
        about = choices.preference == number
        if about.any():
            better, worse = (expected_score(head, outputs[name][at[about]]) for at in (choices.better, choices.worse))
            losses = F.softplus(-SLOPE * choices.sign[number] * (better - worse))
            total = total + losses.sum() / (rows * choices.coverage[number])
    return total


def masked_loss(
    heads: Mapping[str, Head],
    outputs: Mapping[str, torch.Tensor],
    levels: Mapping[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor],
    coverage: Mapping[str, float],
    ranking_weight: float = 0.0,
) -> torch.Tensor:
    """sum_i (weighted sum over labelled rows of the head's loss) / (n * coverage_i), and each head's ranking loss (ours).

    outputs {preference: (n, width_i)}, levels {preference: (n,), 0 = not labelled, whole or between two}, weights {preference: (n,)} with
    mean 1 over the labelled rows of the data, coverage {preference: labelled share of all rows of the data}. On average over batches this
    is the sum of the heads' means over labelled rows; the mean of each batch's own labelled rows would give the one such row of a batch
    the weight of a whole batch. A head without a labelled row keeps the graph, so that every process has its gradient.
    """
    total = torch.zeros((), device=next(iter(outputs.values())).device)
    for name, values in outputs.items():
        labelled = levels[name] > 0
        if labelled.any():
            head, wanted = heads[name], levels[name][labelled]
            whole = (wanted + 0.5).floor()
            losses = head.row_losses(values[labelled], wanted if head.between_levels else whole)
            total = total + (weights[name][labelled] * losses).sum() / (len(values) * coverage[name])
            if ranking_weight:
                share = float(labelled.float().mean()) / coverage[name]
                total = total + ranking_weight * share * ranking_loss(expected_score(head, values[labelled]), whole, head.k)
        else:
            total = total + values.sum() * 0.0
    return total
