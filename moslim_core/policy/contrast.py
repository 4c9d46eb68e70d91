"""Of the answers to a request, the best and the worst: what lies between teaches little and costs as much to read.

Rewards are known before the policy reads anything, so that what is left out costs nothing but its drawing. Max-variance down-sampling
(Xu et al. 2025, arXiv 2504.13818), here for pairs: their pull grows with the difference of rewards.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moslim_core.policy.rollouts import Pairs, Table


def most_different(pairs: Pairs, rewards: Tensor, share: float) -> tuple[Pairs, Tensor]:
    """(the pairs that are left, the rows (k,) that they are): of each request `share` of its answers, two at least, half of them the best.

    `rewards` (r,). Each request becomes a table of its own.
    """
    kept: list[int] = []
    tables: list[Table] = []
    for first, answers, requests in pairs.tables:
        count = min(answers, max(2, round(share * answers)))
        for request in range(requests):
            rows = torch.arange(first + request, first + answers * requests, requests)
            ranked = rows[rewards[rows].argsort(stable=True)].tolist()
            chosen = ranked[: count // 2] + ranked[answers - (count - count // 2) :]
            tables.append(Table(len(kept), count, 1))
            kept += sorted(chosen)
    rows = torch.tensor(kept)
    place = {row: new for new, row in enumerate(kept)}
    home = torch.tensor([place.get(int(old), new) for new, old in enumerate(pairs.home[rows])])
    return Pairs(pairs.rollouts[rows], pairs.requests[rows], pairs.own[rows], home, tuple(tables)), rows
