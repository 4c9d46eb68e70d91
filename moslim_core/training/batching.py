"""Rows cut into batches whose padded size has a bound: the longest row of a batch is what all of it costs."""

from __future__ import annotations

from collections.abc import Sequence


def batches(order: Sequence[int], lengths: Sequence[int], tokens: int, rows: int | None = None) -> list[list[int]]:
    """`order` cut into batches of at most `tokens` when padded, and of at most `rows`; each has one row at least.

    `lengths[index]` is the length of a row; batches are few where rows of like length stand together in `order`.
    """
    cut: list[list[int]] = []
    longest = 0
    for index in order:
        longest = max(longest, lengths[index])
        if not cut or len(cut[-1]) == rows or (len(cut[-1]) + 1) * longest > tokens:
            cut.append([])
            longest = lengths[index]
        cut[-1].append(index)
    return cut
