"""What is left of a table are the answers that differ most in what they earn under its requests."""

from __future__ import annotations

import torch

from moslim_core.policy.contrast import farthest, most_different
from moslim_core.policy.rollouts import Pairs, Table


def tables(answers: int, requests: int, count: int = 1) -> Pairs:
    """Answer n was drawn under request n, where there is one of that number; the others are rated ones."""
    cells = [(t, a, r) for t in range(count) for a in range(answers) for r in range(requests)]
    rollouts = torch.tensor([t * answers + a for t, a, _ in cells])
    asked = torch.tensor([t * requests + r for t, _, r in cells])
    home = torch.tensor([(t * answers + a) * requests + (a if a < requests else r) for t, a, r in cells])
    own = torch.tensor([a == r for _, a, r in cells])
    size = answers * requests
    return Pairs(rollouts, asked, own, home, tuple(Table(t * size, answers, requests) for t in range(count)))


def test_the_two_farthest_apart_then_the_farthest_from_both() -> None:
    """Under two requests: 0 and 3 are the ends, 1 lies beside 0, 2 in the middle, 4 off the line between them."""
    points = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5], [0.0, 1.0], [0.0, 0.2]])
    assert farthest(points, 2) == [0, 3]
    assert farthest(points, 3) == [0, 3, 4]
    assert farthest(points, 4) == [0, 2, 3, 4]
    assert farthest(torch.ones(3, 2), 2) == [0, 1]


def test_what_is_left_keeps_its_requests_its_own_and_its_home() -> None:
    rewards = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]]).repeat(2, 1).flatten()
    found, rows = most_different(tables(3, 2, count=2), rewards, 0.6)
    assert list(zip(found.rollouts.tolist(), found.requests.tolist(), strict=True)) == [
        (0, 0), (0, 1), (2, 0), (2, 1), (3, 2), (3, 3), (5, 2), (5, 3),
    ]  # fmt: skip
    assert rows.tolist() == [0, 1, 4, 5, 6, 7, 10, 11]
    assert found.tables == (Table(0, 2, 2), Table(4, 2, 2))
    assert found.own.tolist() == [True, False, False, False] * 2
    # Answers 0 and 3 were drawn under their first request; 2 and 5 are rated, and at home wherever they are.
    assert found.home.tolist() == [0, 0, 2, 3, 4, 4, 6, 7]


def test_two_are_left_at_least_and_all_at_most() -> None:
    rewards = torch.rand(12, generator=torch.Generator().manual_seed(0))
    assert len(most_different(tables(4, 3), rewards, 0.01)[1]) == 6
    assert most_different(tables(4, 3), rewards, 0.99)[1].tolist() == list(range(12))
