"""Credit per token against numbers made by hand, and against the exact gradient of a policy small enough to enumerate."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moslim_core.policy.credit import MOST_BEGINNINGS, credited, places, spread


def centred(weight: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return values - (weight * values).sum(dim=0) / weight.sum(dim=0).clamp(min=1e-6)


def alone(local: torch.Tensor) -> torch.Tensor:
    return local


def test_returns_and_noise_by_hand() -> None:
    """Two answers of rewards 1 and 0. Before token 1 they are foretold 0.75 and 0.25: half of c = min(1 / 0.5, 1)."""
    rewards, foretold = torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 0.75], [0.0, 0.25]])
    returns, noise = credited(rewards, foretold, torch.ones(2, 2), centred, alone)
    assert torch.allclose(returns, torch.tensor([[1.0, 0.25], [0.0, -0.25]]))
    # Left: (0.25 - -0.25)^2 of (1 - 0)^2.
    assert torch.allclose(noise, torch.tensor([1.0, 0.25]))


def test_what_foretells_the_opposite_is_left_out() -> None:
    rewards, foretold = torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    returns, noise = credited(rewards, foretold, torch.ones(2, 2), centred, alone)
    assert returns.tolist() == [[1.0, 1.0], [0.0, 0.0]] and noise.tolist() == [1.0, 1.0]


def test_tokens_that_are_not_there_do_not_count() -> None:
    rewards, foretold = torch.tensor([1.0, 0.0, 0.5]), torch.tensor([[0.0, 0.5], [0.0, 0.0], [0.0, 99.0]])
    weight = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    short, _ = credited(rewards[:2], foretold[:2], weight[:2], centred, alone)
    assert torch.equal(credited(rewards, foretold, weight, centred, alone)[0][:2, 1], short[:, 1])


@given(st.integers(1, 400))
def test_every_token_counts_from_the_last_beginning_before_it(width: int) -> None:
    scored = places(width)
    assert len(scored) < MOST_BEGINNINGS and all(0 < place < width for place in scored)
    found = spread(torch.tensor([[float(place) for place in scored]]), width)[0].tolist()
    assert found == [max([0, *(p for p in scored if p <= token)]) for token in range(width)]
    if width <= MOST_BEGINNINGS:
        assert found == list(range(width))


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
def test_expected_gradient_is_the_exact_one(slope: float) -> None:
    """All 2^3 answers of three tokens by a policy with a logit for each beginning; a reward that a beginning foretells in part."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, generator=generator, dtype=torch.float64, requires_grad=True)
    rewards = torch.rand(8, generator=generator, dtype=torch.float64)
    foretold = torch.rand(7, generator=generator, dtype=torch.float64)
    expected, estimated = torch.zeros(()), torch.zeros(())
    for number, answer in enumerate(itertools.product((0, 1), repeat=3)):
        node, logs, seen = 0, [], []
        for token in answer:
            logs.append(torch.nn.functional.logsigmoid(logits[node] if token else -logits[node]))
            seen.append(foretold[node] if node else torch.zeros(()))
            node = 2 * node + 1 + token
        chance = torch.stack(logs).sum().exp()
        expected = expected + chance * rewards[number]
        estimated = estimated + chance.detach() * sum(
            log * (rewards[number] - slope * before) for log, before in zip(logs, seen, strict=True)
        )
    exact, found = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (expected, estimated))
    assert torch.allclose(exact, found, atol=1e-12)
