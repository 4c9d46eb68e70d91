"""Of a prompt's answers those that differ most in what they earn: what lies between teaches little and costs as much to read.

Rewards are known before the policy reads anything, so that what is left out costs nothing but its drawing. Down-sampling rollouts by
their rewards is Xu et al.'s (2025, arXiv 2504.13818); here an answer has a reward under each request, and the next one chosen is always
that farthest from those chosen (Kennard & Stone 1969).
"""

from __future__ import annotations

import torch
from torch import Tensor

from moslim_core.policy.rollouts import Pairs, Table


def most_different(pairs: Pairs, rewards: Tensor, share: float) -> tuple[Pairs, Tensor]:
    """(the pairs that are left, the rows (k,) that they are): of each table `share` of its answers, two at least, under all its requests.

    `rewards` (r,).
    """
    remaining: list[int] = []
    tables: list[Table] = []
    for first, answers, requests in pairs.tables:
        earned = rewards[first : first + answers * requests].view(answers, requests)
        chosen = farthest(earned, min(answers, max(2, round(share * answers))))
        tables.append(Table(len(remaining), len(chosen), requests))
        remaining += [first + answer * requests + request for answer in chosen for request in range(requests)]
    rows = torch.tensor(remaining)
    return pairs.of(rows, tables), rows


def farthest(points: Tensor, count: int) -> list[int]:
    """`count` of the points (n, d), in their order: the two farthest apart, then always the one farthest from the nearest chosen."""
    distances = torch.cdist(points.double(), points.double())
    first = int(distances.argmax())
    chosen = [first // len(points), first % len(points)]
    if chosen[0] == chosen[1]:
        # All alike: no pair is farther apart than another.
        return list(range(count))
    while len(chosen) < count:
        nearest = distances[:, chosen].min(dim=1).values
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return sorted(chosen)
