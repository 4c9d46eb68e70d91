"""The learning rate of a step: a short warm-up, then a straight line; and what an update makes of a gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from moslim_core.policy.learner import share_of_rate
from moslim_core.policy.settings import PolicySettings
from tests.core.policy.recorded_run import made_learner, settings


def test_it_warms_up_and_stays() -> None:
    policy = PolicySettings(steps=20)
    assert [share_of_rate(n, policy) for n in range(20)] == [0.25, 0.5, 0.75] + [1.0] * 17


def test_it_falls_in_a_straight_line() -> None:
    policy = PolicySettings(steps=5, final_rate=0.2)
    assert [share_of_rate(n, policy) for n in range(5)] == pytest.approx([0.5, 0.8, 0.6, 0.4, 0.2])
    assert share_of_rate(0, PolicySettings(steps=1, final_rate=0)) == 1


def changed(base: Path, update: str, gradient: torch.Tensor) -> torch.Tensor:
    """What one update at a rate of 0.01 adds to one of the adapter's matrices."""
    unused: Any = None
    learner, _, _ = made_learner(base, settings("online_dpo", "plain", update=update, learning_rate=0.01, lora_rank=len(gradient)), unused)
    name = next(n for n, p in learner.used.items() if p.shape == gradient.shape)
    before = learner.learning[name].detach().clone()
    for other, parameter in learner.learning.items():
        parameter.grad = gradient.clone() if other == name else torch.zeros_like(parameter)
    learner._step(1.0)
    return learner.learning[name].detach() - before


def test_muon_moves_all_directions_of_a_gradient_alike_and_adamw_does_not(tiny_chat: Path) -> None:
    rank, width = 4, 32
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(n, rank, generator=generator)).Q for n in (rank, width))
    gradient = left @ torch.diag(torch.tensor([1.0, 0.3, 0.1, 0.03])) @ right.T
    muon, adamw = (torch.linalg.svdvals(changed(tiny_chat, update, gradient)) for update in ("muon", "adamw"))
    assert muon.max() < 2 * muon.min() and adamw.max() > 3 * adamw.min()
    # As large as AdamW's mostly are: 0.2 of the rate, as the root mean square.
    assert float((muon.square().sum() / (rank * width)).sqrt()) == pytest.approx(0.2 * 0.01, rel=0.3)
