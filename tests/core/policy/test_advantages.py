"""PPO's arithmetic against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moslim_core.policy import advantages as ppo
from moslim_core.policy.optimisers.rloo import token_loss


def test_token_rewards() -> None:
    # Answer 1 has three tokens, answer 2 has one. c = 0.5; log ratios 0.2, -0.4, 1.0 and 0.6.
    log_probs = torch.tensor([[-1.0, -2.0, -0.5], [-1.0, -9.0, -9.0]])
    reference = torch.tensor([[-1.2, -1.6, -1.5], [-1.6, 5.0, 5.0]])
    mask = torch.tensor([[1.0, 1, 1], [1, 0, 0]])
    found = ppo.token_rewards(torch.tensor([2.0, -1.0]), log_probs - reference, mask, 0.5)
    # -0.5 x the log ratio, and the score at the last token: 2 - 0.5, -1 - 0.3.
    assert torch.allclose(found, torch.tensor([[-0.1, 0.2, 1.5], [-1.3, 0, 0]]), atol=1e-6)


def test_generalised_advantages() -> None:
    """gamma = 0.9, lambda = 0.5; r = (0, 1, 2), V = (1, 2, 3).

    delta_3 = 2 - 3 = -1;           A_3 = -1
    delta_2 = 1 + 0.9 x 3 - 2 = 1.7; A_2 = 1.7 + 0.45 x -1 = 1.25
    delta_1 = 0 + 0.9 x 2 - 1 = 0.8; A_1 = 0.8 + 0.45 x 1.25 = 1.3625
    The second answer ends after two tokens: its third value counts for nothing.
    delta_2 = 1 - 2 = -1;            A_2 = -1
    delta_1 = 0 + 0.9 x 2 - 1 = 0.8; A_1 = 0.8 + 0.45 x -1 = 0.35
    """
    rewards, values = torch.tensor([[0.0, 1, 2], [0, 1, 0]]), torch.tensor([[1.0, 2, 3], [1, 2, 3]])
    mask = torch.tensor([[1.0, 1, 1], [1, 1, 0]])
    advantages, returns = ppo.estimate(rewards, values, mask, 0.9, 0.5)
    assert torch.allclose(advantages, torch.tensor([[1.3625, 1.25, -1], [0.35, -1, 0]]))
    assert torch.allclose(returns, torch.tensor([[2.3625, 3.25, 2], [1.35, 1, 0]]))


@given(st.lists(st.lists(st.floats(-3, 3), min_size=4, max_size=4), min_size=2, max_size=2), st.integers(1, 4), st.floats(0.1, 1))
def test_extremes_of_lambda(drawn: list[list[float]], length: int, discount: float) -> None:
    """lambda 1: the discounted rewards to come, less the value; lambda 0: one step's error."""
    rewards, values = (torch.tensor([row], dtype=torch.float64) for row in drawn)
    mask = (torch.arange(4) < length).double()[None]
    whole, returns = ppo.estimate(rewards * mask, values, mask, discount, 1.0)
    step, _ = ppo.estimate(rewards * mask, values, mask, discount, 0.0)
    for t in range(length):
        to_come = sum(discount ** (s - t) * drawn[0][s] for s in range(t, length))
        assert whole[0, t].item() == pytest.approx(to_come - drawn[1][t], abs=1e-9)
        assert returns[0, t].item() == pytest.approx(to_come, abs=1e-9)
        following = drawn[1][t + 1] if t + 1 < length else 0.0
        assert step[0, t].item() == pytest.approx(drawn[0][t] + discount * following - drawn[1][t], abs=1e-9)
    assert not whole[0, length:].any()


def test_whitening_counts_tokens_only() -> None:
    # Tokens 1, 3, 5: mean 3, variance 8/3.
    found = ppo.whiten(torch.tensor([[1.0, 3], [5, 100]]), torch.tensor([[1.0, 1], [1, 0]]))
    unit = 2 / math.sqrt(8 / 3)
    assert torch.allclose(found, torch.tensor([[-unit, 0], [unit, 0]]), atol=1e-6)


def test_policy_loss_is_clipped_where_it_would_go_on() -> None:
    """Ratios 1.5, 1.5, 0.5, 0.5 with A = 1, -1, 1, -1 and clip 0.2; the last token is padding.

    min(1.5, 1.2) = 1.2; min(-1.5, -1.2) = -1.5; min(0.5, 0.8) = 0.5; masked. Mean of (1.2 - 1.5 + 0.5) / 3 = 0.2 / 3.
    """
    log_probs = torch.log(torch.tensor([[1.5, 1.5, 0.5, 0.5]])).requires_grad_()
    mask = torch.tensor([[1.0, 1, 1, 0]])
    loss = token_loss(log_probs, torch.zeros(1, 4), torch.tensor([[1.0, -1, 1, -1]]), mask, 0.2, 3)
    assert loss.item() == pytest.approx(-0.2 / 3)
    loss.backward()
    # No gradient where the clipped one is the worse; d(rho A)/d log pi = rho A elsewhere.
    assert torch.allclose(log_probs.grad, torch.tensor([[0.0, 0.5, -0.5 / 3, 0]]))


def test_value_loss_takes_the_worse_of_both() -> None:
    """Old 0, clip 0.2. V = 1, R = 1: the clipped one is 0.2 and the worse, 0.64. V = -0.1, R = 1: not clipped, 1.21. Half the mean."""
    found = ppo.value_loss(torch.tensor([[1.0, -0.1]]), torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1, 2), 0.2, 2)
    assert found.item() == pytest.approx(0.5 * (0.64 + 1.21) / 2)


def test_steering_the_kl_coefficient() -> None:
    assert ppo.steer(0.1, 3.0, 3.0) == pytest.approx(0.1)
    assert ppo.steer(0.1, 3.3, 3.0) == pytest.approx(0.105)
    assert ppo.steer(0.1, 99.0, 3.0) == pytest.approx(0.11)
    assert ppo.steer(0.1, 0.0, 3.0) == pytest.approx(0.09)


def test_estimate_of_the_divergence() -> None:
    """d = log ref - log pi = ln 2 and -ln 2: 2 - ln 2 - 1 = 0.306853, 0.5 + ln 2 - 1 = 0.193147; 0 where both agree."""
    found = ppo.divergence_estimate(torch.tensor([-2.0, -2.0, -2.0]), torch.tensor([-2 + math.log(2), -2 - math.log(2), -2.0]))
    assert found.tolist() == pytest.approx([0.306853, 0.193147, 0.0], abs=1e-6)
