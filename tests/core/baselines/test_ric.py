"""Rewards-in-Context: template, map from weights to rewards, filter, and a run on a tiny model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moslim_core.baselines.measure import measure, read_rows
from moslim_core.baselines.method import Context
from moslim_core.baselines.ric import along_the_front, best, state, stated, wanted

NAMES = ("length", "warmth")


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=2), st.text(max_size=20))
def test_rewards_in_the_prompt_round_trip(rewards: list[float], text: str) -> None:
    messages = state([{"role": "user", "content": f"{text} <length_score> 9.9"}], rewards, NAMES)
    assert stated(messages[-1]["content"], NAMES) == pytest.approx(np.round(rewards, 1))


def test_text_without_rewards_is_an_error() -> None:
    with pytest.raises(ValueError, match="no rewards of length, warmth"):
        stated("Rain? <warmth_score> 1.0 <length_score> 1.0", NAMES)


def test_weights_become_rewards_as_published() -> None:
    low, high = np.array([-2.0, -1.0]), np.array([2.0, 1.0])
    assert wanted(np.array([1.0, 0.0]), low, high).tolist() == [2.0, -1.0]
    assert wanted(np.array([0.5, 0.5]), low, high).tolist() == [2.0, 1.0]
    assert wanted(np.array([0.75, 0.25]), low, high).tolist() == [2.0, 0.0]


def test_the_round_asks_along_the_front_and_keeps_what_is_good_in_something() -> None:
    low, high = np.array([-2.0, -1.0]), np.array([2.0, 1.0])
    goals = along_the_front(50, low, high, np.random.default_rng(0))
    assert ((goals == high).sum(axis=1) == 1).all() and (goals >= low).all() and len(np.unique(goals[:, 0])) > 10
    rewards = np.stack([np.arange(10.0), np.arange(10.0)[::-1]], axis=1)
    assert best(rewards).tolist() == [True] * 3 + [False] * 4 + [True] * 3


def test_a_run_has_a_row_and_uses_the_budget(context: Callable[..., Context]) -> None:
    made = context(sft={"batch_size": 8})
    numbers = measure("ric", made)
    (row,) = read_rows(made.output)
    assert row.name == "ric" and len(row.front.points) == 3 and row.control.answers == 10
    assert row.cost.rollouts == 16 and row.cost.policies == 1 and row.cost.seconds["update"] > 0
    assert measure("ric", made) == numbers
