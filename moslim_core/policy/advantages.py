"""Arithmetic that optimisers share, as pure functions. Tensors are (r, t): rows by tokens, right-padded, `mask` 1 on tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def token_rewards(scores: Tensor, divergence: Tensor, mask: Tensor, kl_coefficient: float) -> Tensor:
    """-c (log pi - log pi_ref) at each token, and the answer's score (r,) at its last one."""
    rewards = -kl_coefficient * divergence * mask
    last = (mask.sum(dim=1) - 1).clamp(min=0).long()
    rewards[torch.arange(len(rewards), device=rewards.device), last] += scores
    return rewards


def estimate(rewards: Tensor, values: Tensor, mask: Tensor, discount: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """(advantages, returns): A_t = sum_l (discount lambda)^l delta_{t+l}, delta_t = r_t + discount V_{t+1} - V_t; returns A + V.

    After the last token the value is 0. Where mask is 0 both are 0 (generalised advantage estimation, Schulman et al. 2016).
    """
    advantages = torch.zeros_like(rewards)
    values = values * mask
    following, next_value = torch.zeros_like(rewards[:, 0]), torch.zeros_like(rewards[:, 0])
    for t in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + discount * next_value - values[:, t]
        following = (delta + discount * gae_lambda * following) * mask[:, t]
        advantages[:, t], next_value = following, values[:, t]
    return advantages, (advantages + values) * mask


def whiten(values: Tensor, mask: Tensor, total: Callable[[Tensor], Tensor] = lambda local: local) -> Tensor:
    """(values - mean) / (std + 1e-8) over tokens, ddof 0; 0 where mask is 0. `total` sums a tensor over all processes."""
    value_sum, count = total(torch.stack([(values * mask).sum(), mask.sum()]))
    mean = value_sum / count.clamp(min=1)
    variance = total((((values - mean) ** 2) * mask).sum()) / count.clamp(min=1)
    return (values - mean) / (variance.sqrt() + 1e-8) * mask


def clipped(ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """min(rho A, clip(rho, 1 - clip, 1 + clip) A) of probability ratios rho = pi / pi_old (Schulman et al. 2017)."""
    return torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float, tokens: int) -> Tensor:
    """Half the sum of max((V - R)^2, (V_clipped - R)^2) over the tokens of `mask`, divided by `tokens`.

    V_clipped is within `clip` of the value before the update.
    """
    near = old + (values - old).clamp(-clip, clip)
    worst = torch.max((values - returns) ** 2, (near - returns) ** 2)
    return 0.5 * (worst * mask).sum() / max(1, tokens)


def steer(coefficient: float, kl: float, target: float) -> float:
    """The KL coefficient after a batch of `kl` nats per answer: up to a tenth more or less (Ziegler et al. 2019, section 2.2)."""
    return coefficient * (1 + 0.5 * min(max(kl / target - 1, -0.2), 0.2))


def divergence_estimate(log_probs: Tensor, reference: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = log pi_ref - log pi: never negative, unbiased on answers of the policy (Schulman's k3, as in GRPO)."""
    difference = reference - log_probs
    return difference.exp() - difference - 1
