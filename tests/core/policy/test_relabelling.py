"""Relabelling against numbers made by hand, and against the exact gradient of a policy small enough to enumerate."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from moslim_core.policy.relabelling import leave_one_out, standardised, weights


def test_requests_that_change_nothing_share_all_answers() -> None:
    rewards = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.5, 0.5]])
    log_probs = torch.tensor([-3.0, -5.0, -7.0, -9.0]).unsqueeze(1).expand(4, 2)
    assert torch.equal(weights(log_probs), torch.ones(4, 2))
    # The baseline is the mean of the other three.
    expected = torch.tensor([[1 - 1 / 3, 0 - 2 / 3], [0, 0], [0 - 2 / 3, 1 - 1 / 3], [0, 0]])
    assert torch.allclose(leave_one_out(weights(log_probs), rewards), expected, atol=1e-6)


def test_requests_told_apart_are_plain_leave_one_out() -> None:
    log_probs = torch.tensor([[-1.0, -99.0], [-2.0, -99.0], [-99.0, -1.0], [-99.0, -2.0]])
    rewards = torch.tensor([[1.0, 9.0], [0.25, 9.0], [9.0, 0.5], [9.0, 0.75]])
    # Twice the advantage, on half of the pairs: the mean over pairs is that of RLOO over answers.
    expected = torch.tensor([[1.5, 0], [-1.5, 0], [0, -0.5], [0, 0.5]])
    assert torch.allclose(leave_one_out(weights(log_probs), rewards), expected, atol=1e-5)


def test_spread_is_that_under_the_request() -> None:
    """Weights 1: under request 0 rewards 1 and 0, mean 1/2, unbiased spread 1/sqrt(2); under request 1 both 3: nothing to learn."""
    found = standardised(torch.ones(2, 2), torch.tensor([[1.0, 3.0], [0.0, 3.0]]))
    assert torch.allclose(found, torch.tensor([[0.5**0.5, 0.0], [-(0.5**0.5), 0.0]]), atol=1e-3)
    # Told apart: each request has its own answers, and those of the other count for nothing.
    apart = weights(torch.tensor([[-1.0, -99.0], [-2.0, -99.0], [-99.0, -1.0], [-99.0, -2.0]]))
    rewards = torch.tensor([[1.0, 9.0], [0.0, 9.0], [9.0, 0.5], [9.0, 0.75]])
    expected = torch.tensor([[1.0, 0], [-1.0, 0], [0, -1.0], [0, 1.0]]) * 2**0.5
    assert torch.allclose(apart * standardised(apart, rewards), expected, atol=2e-2)


def test_answer_that_is_alone_under_a_request_says_nothing_there() -> None:
    log_probs = torch.tensor([[-1.0, -99.0], [-99.0, -1.0]])
    assert torch.allclose(leave_one_out(weights(log_probs), torch.tensor([[1.0, 0.0], [0.0, 1.0]])), torch.zeros(2, 2))


@pytest.mark.parametrize("spread", [0.1, 1.5])
def test_gradient_is_the_exact_one_with_less_noise(spread: float) -> None:
    """All 3^4 draws of two answers to each of two requests by a policy of 2 x 3 logits, against the gradient of the mean reward."""
    rng = np.random.default_rng(0)
    policy = torch.log_softmax(torch.tensor(rng.normal(0, spread, (2, 3))), dim=1)
    rewards = torch.tensor([[1.0, 0.4, 0.0], [0.0, 0.4, 1.0]], dtype=torch.float64)
    p = policy.exp()
    exact = p * (rewards - (p * rewards).sum(dim=1, keepdim=True)) / 2
    score = torch.eye(3, dtype=torch.float64)[None] - p[:, None, :]  # gradient of log p[t, y] by the logits of t
    asked = torch.tensor([0, 0, 1, 1])
    found: dict[str, list[torch.Tensor]] = {"relabelled": [], "plain": []}
    chances = []
    for drawn in itertools.product(range(3), repeat=4):
        answers = torch.tensor(drawn)
        chances.append(float(p[asked, answers].prod()))
        advantage = leave_one_out(weights(policy[:, answers].T), rewards[:, answers].T)
        found["relabelled"].append((advantage.T[..., None] * score[:, answers]).mean(dim=1) / 2)
        own = rewards[asked, answers]
        plain = torch.zeros(2, 3, dtype=torch.float64)
        for request in (0, 1):
            first, second = own[asked == request]
            for answer, value in zip(answers[asked == request], (first - second, second - first), strict=True):
                plain[request] += value * score[request, answer] / 4
        found["plain"].append(plain)
    chance = torch.tensor(chances, dtype=torch.float64)[:, None, None]
    noise = {}
    for name, gradients in found.items():
        stacked = torch.stack(gradients)
        mean = (chance * stacked).sum(dim=0)
        noise[name] = float((chance * (stacked - mean) ** 2).sum())
        # Relabelling's baseline differs a little between requests: a small bias, as is usual with self-normalised weights.
        assert torch.linalg.norm(mean - exact) < (1e-9 if name == "plain" else 0.1) * torch.linalg.norm(exact)
    assert noise["relabelled"] < 0.75 * noise["plain"]
