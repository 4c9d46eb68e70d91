"""PPO and online DPO against the same arithmetic in plain NumPy, answer by answer and token by token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moslim_core.policy.conditioning import Example
from moslim_core.policy.imitation import best_answers_loss, with_imitation
from moslim_core.policy.optimisers import Optimiser, optimiser_class
from moslim_core.policy.relabelling import weights
from moslim_core.policy.rollouts import Rollout, RolloutBatch, pair
from moslim_core.policy.settings import PolicySettings
from moslim_core.preferences import PreferenceSchema, Targets
from moslim_core.reward.mapping import RewardMapping
from moslim_core.reward.settings import MappingSettings
from tests.core.policy.runs import PREFERENCES

Array = np.ndarray


def made(seed: int, relabel: bool, critic: bool) -> tuple[RolloutBatch, Array, Array]:
    """(a batch of two prompts with two requests each and two answers to each request, log-probabilities and values as they are now)."""
    rng = np.random.default_rng(seed)
    examples = [Example([], "", Targets(), number // 2, []) for number in range(4)]
    rollouts = [Rollout([number], number // 2, number // 4) for number in range(8)]
    pairs = pair(examples, rollouts, relabel)
    rows, lengths = len(pairs.rollouts), rng.integers(1, 5, 8)
    mask = torch.tensor(np.arange(4) < lengths[pairs.rollouts.numpy()][:, None]).long()

    def drawn(spread: float, mean: float = 0.0) -> Any:
        return torch.tensor(rng.normal(mean, spread, (rows, 4))) * mask

    old, reference, values = drawn(0.5, -2), drawn(0.5, -2), drawn(1.0)
    weight = pairs.by_table(weights, old.sum(dim=1))
    batch = RolloutBatch(
        pairs, [], torch.zeros_like(mask), mask, torch.tensor(rng.normal(0, 1, rows)), torch.zeros(rows, 2), old, reference,
        values if critic else None, weight, rows, int(mask.sum()),
    )  # fmt: skip
    return batch, (old + drawn(0.3)).numpy(), (values + drawn(0.3)).numpy()


def optimiser(name: str, **more: Any) -> Optimiser:
    mapping = RewardMapping(PreferenceSchema.model_validate(PREFERENCES), MappingSettings())
    return optimiser_class(name)(PolicySettings.model_validate({"optimiser": name, "beta": 0.3} | more), mapping)


def tables(batch: RolloutBatch) -> list[list[int]]:
    """Rows that are compared: of one table, under one request."""
    return [
        [first + answer * requests + request for answer in range(answers)]
        for first, answers, requests in batch.pairs.tables
        for request in range(requests)
    ]


@given(st.integers(0, 10_000), st.booleans(), st.sampled_from(["reward", "loss"]), st.booleans())
def test_ppo(seed: int, relabel: bool, kl: str, normalise: bool) -> None:
    settings = {"discount": 0.9, "gae_lambda": 0.8, "value_weight": 0.7, "value_clip": 0.25}
    batch, now, values = made(seed, relabel, critic=True)
    own = optimiser("ppo", ppo=settings, kl=kl, normalise_advantages=normalise, clip=0.15)
    prepared, _ = own.prepared(batch)
    found = float(own.loss(prepared, torch.tensor(now), torch.tensor(values)))

    mask, old, reference = batch.mask.numpy(), batch.old.numpy(), batch.reference.numpy()  # type: ignore[union-attr]
    before, weight, home = batch.values.numpy(), batch.weight.numpy(), batch.pairs.home.tolist()  # type: ignore[union-attr]
    rewards = batch.rewards.numpy().copy()
    for rows in tables(batch):
        rewards[rows] -= (weight[rows] * batch.rewards.numpy()[rows]).sum() / weight[rows].sum()
    advantages, returns = np.zeros_like(old), np.zeros_like(old)
    for row in range(len(mask)):
        last, at = mask[row].sum() - 1, home[row]
        following = 0.0
        for t in range(last, -1, -1):
            earned = rewards[row] if t == last else 0.0
            if kl == "reward":
                earned -= 0.3 * (old[at, t] - reference[at, t])
            after = before[row, t + 1] if t < last else 0.0
            following = earned + 0.9 * after - before[row, t] + 0.9 * 0.8 * following
            advantages[row, t], returns[row, t] = following, following + before[row, t]
    kept = mask == 1
    if normalise:
        advantages = (advantages - advantages[kept].mean()) / (advantages[kept].std() + 1e-8)
    policy = value = penalty = 0.0
    for row, t in zip(*np.nonzero(mask), strict=True):
        ratio = np.exp(now[row, t] - old[row, t])
        advantage = advantages[row, t] * weight[row]
        policy -= min(ratio * advantage, np.clip(ratio, 0.85, 1.15) * advantage)
        near = before[row, t] + np.clip(values[row, t] - before[row, t], -0.25, 0.25)
        value += 0.5 * max((values[row, t] - returns[row, t]) ** 2, (near - returns[row, t]) ** 2)
        if kl == "loss" and home[row] == row:
            d = reference[row, t] - now[row, t]
            penalty += 0.3 * ratio * (np.exp(d) - d - 1)
    assert found == pytest.approx((policy + 0.7 * value + penalty) / mask.sum(), rel=1e-5, abs=1e-7)


@given(st.integers(0, 10_000), st.booleans())
def test_online_dpo(seed: int, relabel: bool) -> None:
    batch, now, _ = made(seed, relabel, critic=False)
    own = optimiser("online_dpo")
    prepared, _ = own.prepared(batch)
    found = float(own.loss(prepared, torch.tensor(now), None))

    assert batch.reference is not None
    ratios = ((now - batch.reference.numpy()) * batch.mask.numpy()).sum(axis=1)
    rewards, expected = batch.rewards.numpy(), 0.0
    for rows in tables(batch):
        for first in rows:
            for second in set(rows) - {first}:
                preferred = 1 / (1 + np.exp(rewards[second] - rewards[first]))
                margin = 0.3 * (ratios[first] - ratios[second])
                loss = preferred * np.log1p(np.exp(-margin)) + (1 - preferred) * np.log1p(np.exp(margin))
                expected += loss / (len(rows) - 1)
    assert found == pytest.approx(expected / len(rewards), rel=1e-6)


@given(st.integers(0, 10_000), st.booleans())
def test_imitation(seed: int, relabel: bool) -> None:
    batch, now, _ = made(seed, relabel, critic=False)
    own = optimiser("online_dpo")
    found = [float(with_imitation(own.loss, weight)(batch, torch.tensor(now), None)) for weight in (0.0, 0.3)]
    expected = 0.0
    for rows in tables(batch):
        best = max(rows, key=lambda row: float(batch.rewards[row]))
        expected -= now[best][batch.mask[best].numpy() == 1].mean()
    assert found[1] - found[0] == pytest.approx(0.3 * expected / len(batch.rewards), rel=1e-6)


def test_equally_good_answers_are_imitated_as_one_and_nothing_where_all_are_alike() -> None:
    batch, now, _ = made(0, True, critic=False)
    (rows, *_), rewards = tables(batch), torch.zeros_like(batch.rewards)
    assert float(best_answers_loss(replace(batch, rewards=rewards), torch.tensor(now))) == 0, "as where nothing was requested"
    best = rows[:2]
    rewards[best] = 1.0
    nats = [-now[row][batch.mask[row].numpy() == 1].mean() for row in best]
    found = float(best_answers_loss(replace(batch, rewards=rewards), torch.tensor(now)))
    assert len(rows) > 2 and found == pytest.approx(sum(nats) / 2 / len(rewards), rel=1e-6)
