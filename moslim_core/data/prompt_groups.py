"""Prompt groups: prompts that are the same, or nearly, belong together and never stand on both sides of a split.

The same: equal but for case and white space (`prompt_key`). Nearly: sets of word triples with a Jaccard similarity of at least the
threshold, estimated by MinHash (Broder 1997; signatures by datasketch), and whatever hangs together through such pairs. The groups
do not depend on the order of the prompts. In memory is a key and a signature per distinct prompt: about 0.7 kB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from moslim_core.data.rows import plain_text, prompt_key
from moslim_core.preferences import Message

PERMUTATIONS = 128
WORDS = 3
# Of the pairs exactly at the threshold, this share has a band in common and is compared at all.
RECALL = 0.99

_WORD = re.compile(r"\w+")


class PromptGroups:
    """Numbers distinct prompts from 0, and gives each the number of its group: that of the group's smallest key."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._numbers: dict[bytes, int] = {}
        self._signatures = bytearray()
        self._blank: Any = None

    def add(self, prompt: list[Message]) -> int:
        """The number of a prompt, a new one if it was not seen before."""
        key = bytes.fromhex(prompt_key(prompt))
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._numbers)
            if self.threshold < 1:
                self._signatures += self._signature(plain_text(prompt)).tobytes()
        return number

    def number(self, prompt: list[Message]) -> int:
        """The number of a prompt that was added."""
        return self._numbers[bytes.fromhex(prompt_key(prompt))]

    def keys(self) -> list[str]:
        """`prompt_key` of each prompt, by its number."""
        return [key.hex() for key in self._numbers]

    def groups(self) -> np.ndarray:
        """(n,) the group of each prompt added."""
        count = len(self._numbers)
        pairs = near_pairs(np.frombuffer(self._signatures, np.uint32).reshape(-1, PERMUTATIONS), self.threshold)
        if not len(pairs):
            return np.arange(count)
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        links = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
        _, components = connected_components(links, directed=False)
        keys = list(self._numbers)
        first: dict[int, int] = {}
        for number in sorted(range(count), key=keys.__getitem__):
            first.setdefault(components[number], number)
        return np.array([first[component] for component in components])

    def _signature(self, text: str) -> np.ndarray:
        if self._blank is None:
            from datasketch import MinHash

            # 32-bit signatures from a fixed seed: the same on every machine.
            self._blank = MinHash(num_perm=PERMUTATIONS, seed=1, scheme="affine32")
        sketch = self._blank.copy()
        sketch.update_batch(shingles(text))
        return sketch.hashvalues


def shingles(text: str) -> set[bytes]:
    """The word triples of a text, case and punctuation left out; all its words if they are fewer, the text if it has none."""
    words = _WORD.findall(text.lower()) or [text]
    return {" ".join(words[i : i + WORDS]).encode() for i in range(max(1, len(words) - WORDS + 1))}


def near_pairs(signatures: np.ndarray, threshold: float) -> np.ndarray:
    """(m, 2) pairs of rows of `signatures` (n, PERMUTATIONS) that connect all rows which agree in a share of at least `threshold`.

    Locality-sensitive hashing: only rows that agree in a whole band are compared. datasketch's own index would find the same
    candidates, but holds several kB of objects per prompt; sorted band hashes take 8 bytes.
    """
    pairs: list[tuple[int, int]] = []
    for band in _bands(threshold):
        _, bucket, sizes = np.unique(_hash(signatures[:, band]), return_inverse=True, return_counts=True)
        order, ends = np.argsort(bucket, kind="stable"), np.cumsum(sizes)
        for shared in np.flatnonzero(sizes > 1):
            pairs += _connect(order[ends[shared] - sizes[shared] : ends[shared]], signatures, threshold)
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _bands(threshold: float) -> Iterator[slice]:
    """Bands as wide as leaves `RECALL` of the pairs at the threshold with one in common."""
    width = max(w for w in range(1, 17) if 1 - (1 - threshold**w) ** (PERMUTATIONS // w) >= RECALL)
    return (slice(start, start + width) for start in range(0, PERMUTATIONS - width + 1, width))


def _hash(band: np.ndarray) -> np.ndarray:
    """(n,) 64-bit hashes of the rows of `band` (n, width). Rows that collide are compared and told apart."""
    odd = np.random.default_rng(0).integers(2**63, size=band.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    return (band.astype(np.uint64) * odd).sum(axis=1)


def _connect(members: np.ndarray, signatures: np.ndarray, threshold: float) -> Iterator[tuple[int, int]]:
    """Pairs that span every connected part of a bucket: a part's members are compared with what is in no part yet."""
    rest: np.ndarray = members
    waiting: list[int] = []
    while len(rest):
        if waiting:
            here = waiting.pop()
        else:
            here, rest = rest[0], rest[1:]
        near = (signatures[rest] == signatures[here]).mean(axis=1) >= threshold
        yield from ((here, other) for other in rest[near])
        waiting += list(rest[near])
        rest = rest[~near]
