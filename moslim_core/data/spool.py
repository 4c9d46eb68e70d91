"""Rated rows on disk while the label stage works: 16 bytes a row are in memory, so a set may be larger than it."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moslim_core.data.rows import Row, prompt_key
from moslim_core.data.sources import Rated
from moslim_core.data.splits import TEST, VALIDATION

# Of equal answers the one that a source keeps out of training is kept, or a training row would take it from there.
_RANK = {TEST: 0, VALIDATION: 1}


class Spooled(NamedTuple):
    """A rated answer and the number of its source."""

    source: int
    rated: Rated


class Spool:
    """The rows of an iterator, written to `path` at once; iterating gives those that `draw` chose, in the order they came in."""

    def __init__(self, path: Path, rows: Iterable[Spooled]) -> None:
        self.path = path
        self._answers, self._contents = array("Q"), array("Q")
        with path.open("w", encoding="utf-8") as file:
            for source, (stated, row, ratings, place) in rows:
                file.write(json.dumps([source, stated, row, ratings, place], ensure_ascii=False) + "\n")
                self._answers.append(_hash64("limit/" + prompt_key(row.prompt) + row.response))
                content = json.dumps([row.source, row.labels, ratings, source, stated, row.prompt], sort_keys=True)
                self._contents.append(_RANK.get(stated or "", 2) << 62 | _hash64(content) >> 2)
        self._drawn = np.ones(len(self._answers), bool)

    def __len__(self) -> int:
        return int(self._drawn.sum())

    def draw(self, limit: int | None) -> int:
        """Keep one row of each answer to a prompt, and `limit` of these at most; returns how many duplicates were left out.

        The choice is by hashes of prompt and answer, then of the whole row: fair, the same in any order of the files, and a larger
        limit's rows hold a smaller one's.
        """
        answers = np.frombuffer(self._answers, np.uint64)
        order = np.lexsort((np.frombuffer(self._contents, np.uint64), answers))
        ranked = answers[order]
        different = order[np.concatenate(([True], ranked[1:] != ranked[:-1]))] if len(order) else order
        self._drawn = np.zeros(len(answers), bool)
        self._drawn[different[:limit]] = True
        return len(answers) - len(different)

    def __iter__(self) -> Iterator[Spooled]:
        with self.path.open(encoding="utf-8") as file:
            for line, drawn in zip(file, self._drawn, strict=True):
                if drawn:
                    source, stated, row, ratings, place = json.loads(line)
                    yield Spooled(source, Rated(stated, Row(*row), ratings, place))


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
