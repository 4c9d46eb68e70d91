"""Online DPO's loss with the reward model's certainty as labels."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moslim_core.policy.optimisers.online_dpo import preference_losses


def test_losses_by_hand() -> None:
    """Two answers, rewards 1 and 0, log-ratios 2 and -1, beta 0.5: p = sigmoid(1) = 0.731059, sigmoid(1.5) = 0.817574.

    -0.731059 ln 0.817574 - 0.268941 ln 0.182426 = 0.147246 + 0.457580
    """
    losses = preference_losses(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.0]), 0.5)
    assert losses.tolist() == pytest.approx([0.604826, 0.604826], abs=1e-5)


def test_with_sure_labels_it_is_dpo() -> None:
    log_ratios, beta = torch.tensor([0.3, -0.4]), 0.1
    losses = preference_losses(log_ratios, torch.tensor([50.0, 0.0]), beta)
    assert losses.tolist() == pytest.approx([-math.log(1 / (1 + math.exp(-0.07)))] * 2)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5), st.floats(0.01, 1))
def test_the_optimum_is_that_of_rl_with_the_same_beta(rewards: list[float], beta: float) -> None:
    """log pi / pi_ref = r / beta + c has no gradient; c, the partition function, cancels out of every pair."""
    r = torch.tensor(rewards, dtype=torch.float64)
    log_ratios = (r / beta + 3).requires_grad_()
    preference_losses(log_ratios, r, beta).mean().backward()
    assert log_ratios.grad is not None and log_ratios.grad.abs().max() < 1e-9


def test_first_step_is_that_of_leave_one_out() -> None:
    """At the reference the gradient is beta / 2 times that of RLOO's loss, as sigmoid has slope 1/4 at 0 and a pair counts twice."""
    r = torch.tensor([0.01, 0.02, 0.05, 0.04], dtype=torch.float64)
    log_ratios = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    preference_losses(log_ratios, r, 0.2).mean().backward()
    leave_one_out = r - (r.sum() - r) / 3
    assert log_ratios.grad is not None
    assert torch.allclose(-log_ratios.grad, 0.2 / 2 * leave_one_out / 4, rtol=1e-3)


def test_requests_are_apart_and_an_answer_alone_has_no_loss() -> None:
    log_ratios, rewards = torch.randn(3, 2), torch.rand(3, 2)
    both = preference_losses(log_ratios, rewards, 0.1)
    assert torch.allclose(both[:, 1], preference_losses(log_ratios[:, 1], rewards[:, 1], 0.1))
    assert preference_losses(log_ratios[:1], rewards[:1], 0.1).tolist() == [[0.0, 0.0]]
