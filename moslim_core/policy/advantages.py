"""PPO's arithmetic as pure functions (Schulman et al. 2016, 2017): rewards per token, advantages, whitening, clipped losses.

All tensors are (n, t): answers by tokens, right-padded, with `mask` 1 on tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def token_rewards(scores: Tensor, log_probs: Tensor, reference: Tensor, mask: Tensor, kl_coefficient: float) -> Tensor:
    """-c (log pi - log pi_ref) at each token, and the answer's score (n,) at its last one."""
    rewards = -kl_coefficient * (log_probs - reference) * mask
    last = (mask.sum(dim=1) - 1).clamp(min=0).long()
    rewards[torch.arange(len(rewards), device=rewards.device), last] += scores
    return rewards


def estimate(rewards: Tensor, values: Tensor, mask: Tensor, discount: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """(advantages, returns): A_t = sum_l (discount lambda)^l delta_{t+l}, delta_t = r_t + discount V_{t+1} - V_t; returns A + V.

    After the last token the value is 0. Where mask is 0 both are 0.
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
    kept, count = total(torch.stack([(values * mask).sum(), mask.sum()]))
    mean = kept / count.clamp(min=1)
    variance = total((((values - mean) ** 2) * mask).sum()) / count.clamp(min=1)
    return (values - mean) / (variance.sqrt() + 1e-8) * mask


def policy_loss(log_probs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float, tokens: Tensor | None = None) -> Tensor:
    """Mean over tokens (by default those of mask) of -min(rho A, clip(rho, 1 - clip, 1 + clip) A), rho = pi / pi_old."""
    ratio = torch.exp(log_probs - old)
    worst = torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -(worst * mask).sum() / (mask.sum() if tokens is None else tokens).clamp(min=1)


def value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float, tokens: Tensor | None = None) -> Tensor:
    """Half the mean over tokens (by default those of mask) of max((V - R)^2, (V_clipped - R)^2).

    V_clipped is within `clip` of the value before the update.
    """
    clipped = old + (values - old).clamp(-clip, clip)
    worst = torch.max((values - returns) ** 2, (clipped - returns) ** 2)
    return 0.5 * (worst * mask).sum() / (mask.sum() if tokens is None else tokens).clamp(min=1)


def steer(coefficient: float, kl: float, target: float) -> float:
    """The KL coefficient after a batch of `kl` nats per answer: up to a tenth more or less (Ziegler et al. 2019, section 2.2)."""
    return coefficient * (1 + 0.5 * min(max(kl / target - 1, -0.2), 0.2))
