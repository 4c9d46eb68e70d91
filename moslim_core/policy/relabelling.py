"""Every answer counts under every request that was made of its prompt (ours).

The reward model never sees the request, so that one pass tells how good an answer is for each of them. An answer drawn under one
request is taken as drawn from the mixture of all, and weighs pi(answer | request) / mixture(answer) under each: multiple importance
sampling with the balance heuristic (Veach & Guibas 1995). While the policy hardly heeds requests, every answer counts for all, and
what would move all of them alike cancels out; once it tells them apart, each answer counts for its own, as in plain RLOO.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """n answers, each under the t requests of its prompt, as rows of a batch of answers: answer-major, (n * t,)."""

    answers: Tensor
    # A row of the batch that was asked under the request.
    requests: Tensor
    # (n,): where an answer meets the request that it was drawn under.
    own: Tensor
    families: Tensor

    def expand(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Prompts of the requests with the answers: the (n, ...) `prompt_*` and `completion_*` of a batch as (n * t, ...)."""
        of = {"prompt": self.requests, "completion": self.answers}
        return {f"{part}_{kind}": batch[f"{part}_{kind}"][rows] for part, rows in of.items() for kind in ("ids", "mask")}

    def only_own(self, own: Tensor, others: Tensor) -> Tensor:
        """`others` (n * t, ...) with `own` (n, ...) in the rows where an answer meets the request that it was drawn under."""
        mixed = others.clone()
        mixed[self.own] = own
        return mixed

    def by_family(self, function: Callable[..., Tensor], *values: Tensor) -> Tensor:
        """`function` of each prompt's rows of `values`, each (n * t, ...) taken as (answers, requests, ...); (n * t, ...)."""
        tables = [value.view(len(self.families), -1, *value.shape[1:]) for value in values]
        result = torch.empty_like(tables[0])
        for family in self.families.unique():
            rows = self.families == family
            result[rows] = function(*(table[rows] for table in tables))
        return result.flatten(0, 1)

    def weights(self, log_probs: Tensor, mask: Tensor) -> Tensor:
        """`weights` of the rows (n * t,) of log-probabilities (n * t, c) of their tokens."""
        return weights((log_probs * mask).sum(dim=1).view(len(self.families), -1)).flatten()

    def combine(self, values: Tensor, width: int) -> Tensor:
        """(n, p + width) tokens or masks of prompts and answers -> (n * t, p + width)."""
        return torch.cat([values[self.requests, :-width], values[self.answers, -width:]], dim=1)


def pair(rows: Sequence[Mapping[str, Any]]) -> Pairs:
    """Pairs of a batch whose rows name their `group` (one prompt under one request) and `family` (one prompt under all its requests).

    Raises ValueError where families differ in their number of requests.
    """
    requests: dict[int, dict[int, int]] = {}
    for index, row in enumerate(rows):
        requests.setdefault(row["family"], {}).setdefault(row["group"], index)
    if len({len(groups) for groups in requests.values()}) != 1:
        raise ValueError("a batch must hold all requests of its prompts, as many for each")
    found = [(i, r, row["group"] == g) for i, row in enumerate(rows) for g, r in requests[row["family"]].items()]
    answers, asked, own = (torch.tensor(column) for column in zip(*found, strict=True))
    return Pairs(answers, asked, own.nonzero().flatten(), torch.tensor([row["family"] for row in rows]))


def alone(rows: Sequence[Mapping[str, Any]]) -> Pairs:
    """Pairs of a batch in which each answer counts under its own request only, and answers to the same request are compared."""
    every = torch.arange(len(rows))
    return Pairs(every, every, every, torch.tensor([row["group"] for row in rows]))


def weights(log_probs: Tensor) -> Tensor:
    """pi(a | t) / mean_s pi(a | s), in [0, t], of sequence log-probabilities (a, t) under as many answers to each request."""
    return torch.softmax(log_probs, dim=1) * log_probs.shape[1]


def advantages(weight: Tensor, rewards: Tensor) -> Tensor:
    """Weighted advantages (a, t, ...) of one prompt's answers under its requests, of their weights and rewards, each (a, t, ...).

    The baseline is the weighted mean over the other answers. Where the policy tells requests apart for certain, that is the
    leave-one-out baseline over the answers to the same request.
    """
    others = weight.sum(dim=0) - weight
    baseline = ((weight * rewards).sum(dim=0) - weight * rewards) / others.clamp(min=1e-6)
    return torch.where(others > 1e-6, weight * (rewards - baseline), 0.0)


def centred(weight: Tensor, values: Tensor) -> Tensor:
    """Values (a, t, ...) less their weighted mean over one prompt's answers under the same request."""
    return values - (weight * values).sum(dim=0) / weight.sum(dim=0).clamp(min=1e-6)


def normalised_advantages(weight: Tensor, rewards: Tensor) -> Tensor:
    """As `advantages`, in GRPO's way: less the weighted mean of all answers under the same request, by their weighted spread."""
    total = weight.sum(dim=0).clamp(min=1e-6)
    mean = (weight * rewards).sum(dim=0) / total
    spread = ((weight * (rewards - mean) ** 2).sum(dim=0) / total).sqrt()
    return weight * (rewards - mean) / (spread + 1e-4)
