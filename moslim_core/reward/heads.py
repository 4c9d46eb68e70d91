"""Head types: what a preference's head makes of the pooled state, how it learns, and its probabilities (docs/method.md section 2).

Every type yields p (n, K), so that the mapping, the metrics and the judges never ask which one made it. `scale` is fitted on
validation: a temperature that divides the logits, or a regression's standard deviation in levels.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from moslim_core.registry import head

# Keeps the log of a class that a float can't tell from impossible finite.
TINY = 1e-12


class Head(nn.Module):
    """pooled (n, d) -> outputs (n, width). The loss is the cross-entropy of its own probabilities, unless a type says otherwise.

    `between_levels`: whether it learns from a level between two whole ones; the other types get the nearest.
    """

    between_levels = False

    def __init__(self, hidden_size: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.linear = nn.Linear(hidden_size, self.width)

    @property
    def width(self) -> int:
        """Outputs per answer."""
        return self.k

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Pooled states (n, d) -> outputs (n, width)."""
        return self.linear(pooled)

    def log_probabilities(self, outputs: torch.Tensor, scale: float | torch.Tensor = 1.0) -> torch.Tensor:
        """outputs (n, width) -> log p (n, K)."""
        return F.log_softmax(outputs / scale, dim=-1)

    def row_losses(self, outputs: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """outputs (n, width), levels (n,) in 1..K, whole unless `between_levels` -> losses (n,) in nats (regression: squared levels)."""
        return F.nll_loss(self.log_probabilities(outputs), levels.long() - 1, reduction="none")


@head("classification")
class ClassificationHead(Head):
    """K logits, softmax, cross-entropy (paper)."""


@head("ordinal")
class OrdinalHead(Head):
    """Cumulative link: P(c <= j) = sigmoid((theta_j - s) / T) with rising thresholds theta (McCullagh 1980); outputs theta_j - s."""

    def __init__(self, hidden_size: int, k: int) -> None:
        super().__init__(hidden_size, k)
        self.linear = nn.Linear(hidden_size, 1)
        # Thresholds start 1 apart around 0: softplus(0.5413) = 1.
        self.first = nn.Parameter(torch.tensor(-(k - 2) / 2))
        self.gaps = nn.Parameter(torch.full((k - 2,), 0.5413))

    @property
    def width(self) -> int:
        return self.k - 1

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        thresholds = torch.cat([self.first[None], self.first + F.softplus(self.gaps).cumsum(0)])
        return thresholds - self.linear(pooled)

    def log_probabilities(self, outputs: torch.Tensor, scale: float | torch.Tensor = 1.0) -> torch.Tensor:
        end = outputs.new_full((len(outputs), 1), float("inf"))
        upper, lower = torch.cat([outputs / scale, end], dim=1), torch.cat([-end, outputs / scale], dim=1)
        # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - e^(l - u)): no difference of two numbers near 1.
        return F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log1p(-torch.exp(lower - upper).clamp(max=1 - 1e-6))


@head("regression")
class RegressionHead(Head):
    """One number, the level, by squared error; p is a Gaussian around it, integrated over the levels' bins."""

    between_levels = True

    @property
    def width(self) -> int:
        return 1

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.linear(pooled) + (self.k + 1) / 2

    def log_probabilities(self, outputs: torch.Tensor, scale: float | torch.Tensor = 1.0) -> torch.Tensor:
        edges = torch.arange(1, self.k, device=outputs.device) + 0.5
        z = (edges - outputs.double()) / scale
        end = z.new_full((len(z), 1), float("inf"))
        upper, lower = torch.cat([z, end], dim=1), torch.cat([-end, z], dim=1)
        # The smaller tail is the exact one.
        flip = lower > 0
        p = torch.special.ndtr(torch.where(flip, -lower, upper)) - torch.special.ndtr(torch.where(flip, -upper, lower))
        p = p.clamp(min=TINY)
        return (p / p.sum(dim=1, keepdim=True)).log().to(outputs.dtype)

    def row_losses(self, outputs: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        return (outputs.squeeze(1) - levels.to(outputs.dtype)) ** 2


@head("two_hot")
class TwoHotHead(Head):
    """K logits against a target that splits a level between two over both: 2.25 is 3/4 of level 2 and 1/4 of level 3.

    With whole levels this is classification; it differs where ratings lie between two levels, as means of several raters do.
    """

    between_levels = True

    def row_losses(self, outputs: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        return -(two_hot(levels, self.k) * self.log_probabilities(outputs)).sum(dim=1)


def two_hot(levels: torch.Tensor, k: int) -> torch.Tensor:
    """levels (n,) in [1, K] -> (n, K) weights of the two nearest whole levels, whose mean is the level."""
    distance = (torch.arange(1, k + 1, device=levels.device) - levels[:, None]).abs()
    return (1 - distance).clamp(min=0)
