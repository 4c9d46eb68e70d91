"""Training batches of rows of like length, in random order.

Sources differ in length and in what they label. Were the batches to come sorted, even within a part of an epoch, training would see
one source after the other and forget the last: heads then swing instead of learning (measured on three-h). (ours)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

# A pool of this many batches is sorted by length before it is cut: little padding, and neighbours still vary from epoch to epoch.
POOL_BATCHES = 50


class LengthBatches(Sampler[int]):
    """Row numbers, each once an epoch; every `batch_size` in a row are of like length. An epoch's order depends on the seed alone."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = np.asarray(lengths), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))
        # The rows that fill no batch come last, so that the loader's cuts fall between the batches made here.
        whole, rest = np.split(order, [len(order) - len(order) % self.batch_size])
        pools = np.split(whole, range(POOL_BATCHES * self.batch_size, len(whole), POOL_BATCHES * self.batch_size))
        batches = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")].reshape(-1, self.batch_size) for pool in pools])
        yield from rng.permutation(batches).reshape(-1).tolist()
        yield from rest.tolist()
