"""The learning rate of a step: a short warm-up, then a straight line."""

from __future__ import annotations

import pytest

from moslim_core.policy.learner import share_of_rate
from moslim_core.policy.settings import PolicySettings


def test_it_warms_up_and_stays() -> None:
    policy = PolicySettings(steps=20)
    assert [share_of_rate(n, policy) for n in range(20)] == [0.25, 0.5, 0.75] + [1.0] * 17


def test_it_falls_in_a_straight_line() -> None:
    policy = PolicySettings(steps=5, final_rate=0.2)
    assert [share_of_rate(n, policy) for n in range(5)] == pytest.approx([0.5, 0.8, 0.6, 0.4, 0.2])
    assert share_of_rate(0, PolicySettings(steps=1, final_rate=0)) == 1
