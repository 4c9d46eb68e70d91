"""What is left of a table is the best and the worst under each request, as tables of their own."""

from __future__ import annotations

import torch

from moslim_core.policy.contrast import most_different
from moslim_core.policy.rollouts import Pairs, Table


def table(answers: int, requests: int) -> Pairs:
    """Answer n was drawn under request n, where there is one of that number; the others are rated ones."""
    cells = [(a, r) for a in range(answers) for r in range(requests)]
    rollouts, asked = (torch.tensor(column) for column in zip(*cells, strict=True))
    home = torch.tensor([a * requests + a if a < requests else row for row, (a, _) in enumerate(cells)])
    return Pairs(rollouts, asked, rollouts == asked, home, (Table(0, answers, requests),))


def test_the_best_and_the_worst_of_each_request() -> None:
    pairs = table(5, 2)
    rewards = torch.tensor([[0.1, 0.9], [0.5, 0.5], [0.4, 0.2], [0.9, 0.4], [0.3, 0.8]]).flatten()
    found, rows = most_different(pairs, rewards, 0.4)
    # Under request 0 answers 0 and 3, under request 1 answers 0 and 2.
    assert list(zip(found.rollouts.tolist(), found.requests.tolist(), strict=True)) == [(0, 0), (3, 0), (0, 1), (2, 1)]
    assert rows.tolist() == [0, 6, 1, 5]
    assert found.tables == (Table(0, 2, 1), Table(2, 2, 1))
    assert found.own.tolist() == [True, False, False, False]
    # Answer 0 is at home in its own row; what lost its home is at home where it is.
    assert found.home.tolist() == [0, 1, 0, 3]
    assert torch.allclose(found.by_table(lambda r: r - r.mean(dim=0), rewards[rows]), torch.tensor([-0.4, 0.4, 0.35, -0.35]))


def test_two_are_left_at_least_and_all_at_most() -> None:
    rewards = torch.rand(12)
    assert len(most_different(table(4, 3), rewards, 0.01)[1]) == 6
    found, rows = most_different(table(4, 3), rewards, 0.99)
    assert sorted(rows.tolist()) == list(range(12)) and len(found.tables) == 3
