"""Credit per token: what an answer earns, less what its beginning had foretold. (ours)

A token can't change what stood before it. So each counts with the answer's reward less c times the reward of the answer cut off
before the token, which the reward model gives as it gives any other: it is the critic too, one for every target, that nobody has to
train. What depends on the beginning alone leaves the expected gradient as it is; c, by least squares at each place, takes away most of
the noise (a control variate). That the same answers fit c and learn biases it by the order of 1 / answers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# So many beginnings of an answer are scored at most, evenly spaced; a token between two counts from the one before it.
MOST_BEGINNINGS = 16


def places(width: int) -> list[int]:
    """The tokens of answers of at most `width` tokens before which beginnings are scored; the empty one, before token 0, never is."""
    step = -(-width // MOST_BEGINNINGS)
    return list(range(step, width, step))


def spread(scored: Tensor, width: int) -> Tensor:
    """Rewards (r, len(places(width))) of scored beginnings -> (r, width), for each token that of the last one before it; 0 before all."""
    starts = torch.tensor([0, *places(width), width])
    return torch.cat([scored.new_zeros(len(scored), 1), scored], dim=1).repeat_interleave(starts.diff().to(scored.device), dim=1)


def credited(
    rewards: Tensor, foretold: Tensor, weight: Tensor, centred: Callable[[Tensor, Tensor], Tensor], total: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """(returns (r, t) of each token, noise that is left (t,), as a share of the variance of rewards).

    `rewards` (r,); `foretold` (r, t); `weight` (r, t), 0 where there is no token; `centred(weight, values)` takes from values (r, t)
    their weighted mean over the answers that are compared; `total` sums over all processes. c is held within [0, 1].
    """
    whole = rewards.unsqueeze(1).expand_as(foretold)
    x, y = centred(weight, foretold), centred(weight, whole)
    xx, xy, yy = total(torch.stack([(weight * a * b).sum(dim=0) for a, b in ((x, x), (x, y), (y, y))]))
    slope = (xy / xx.clamp(min=1e-9)).clamp(0, 1)
    left = (yy - 2 * slope * xy + slope**2 * xx) / yy.clamp(min=1e-9)
    return whole - slope * foretold, left
