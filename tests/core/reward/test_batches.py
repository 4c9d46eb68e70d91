"""Batches of like length in random order: each row once, little padding, no drift from short to long, the same again by seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moslim_core.reward.batches import LengthBatches


@given(st.lists(st.integers(1, 200), max_size=300), st.integers(1, 40), st.integers(0, 3))
def test_every_row_once(lengths: list[int], batch_size: int, epoch: int) -> None:
    batches = LengthBatches(lengths, batch_size, seed=1)
    batches.set_epoch(epoch)
    assert sorted(batches) == list(range(len(lengths))) and len(batches) == len(lengths)


def test_batches_are_of_like_length_and_come_in_no_order() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 200, 6400)
    drawn = lengths[list(LengthBatches(lengths, 32, seed=0))].reshape(-1, 32)
    padding = 1 - drawn.mean() / drawn.max(axis=1).mean()
    assert padding < 0.05, "a random batch of these pads 45 %"
    means = drawn.mean(axis=1)
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.2, "a batch's length says nothing about the next one's"


def test_order_depends_on_seed_and_epoch_alone() -> None:
    lengths = list(range(100))
    first, again, other = (LengthBatches(lengths, 8, seed=s) for s in (3, 3, 4))
    assert list(first) == list(again) == list(first)
    assert list(first) != list(other)
    again.set_epoch(1)
    assert list(first) != list(again)


@pytest.mark.parametrize("count", [0, 5, 8])
def test_fewer_rows_than_a_batch(count: int) -> None:
    assert sorted(LengthBatches([7] * count, 8, seed=0)) == list(range(count))
