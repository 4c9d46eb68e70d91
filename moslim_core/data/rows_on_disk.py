"""Rated rows on disk while the label stage works: in memory are some 40 bytes a row, so a set may be larger than it.

Several ratings of one answer are merged by label: its level is the mean of theirs, which may lie between two. (ours)
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from math import isnan, nan
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moslim_core.data.rows import Row, prompt_key
from moslim_core.data.sources import Rated
from moslim_core.data.splits import TEST, VALIDATION

# Of equal answers the one that a source keeps out of training stays, or a training row would take it from there.
_RANK = {TEST: 0, VALIDATION: 1}

DUPLICATE = "duplicate"
MERGED = "another rating of the same answer, merged with it"


class Spooled(NamedTuple):
    """A rated answer and the number of its source."""

    source: int
    rated: Rated


class Spool:
    """The rows of an iterator, written to `path` at once; iterating gives those that `draw` chose, in the order they came in.

    `names`: the preferences.
    """

    def __init__(self, path: Path, rows: Iterable[Spooled], names: tuple[str, ...]) -> None:
        self.path, self.names = path, names
        self._answers, self._contents, self._sources = array("Q"), array("Q"), array("H")
        # By row and preference, as there is a level, or else a rating that is still to be cut, or neither.
        self._levels, self._ratings = array("d"), array("d")
        with path.open("w", encoding="utf-8") as file:
            for source, (stated, row, ratings) in rows:
                file.write(json.dumps([source, stated, row, ratings], ensure_ascii=False) + "\n")
                self._answers.append(_hash64("limit/" + prompt_key(row.prompt) + row.response + _choice(row)))
                levels = row.levels()
                content = json.dumps([row.source, levels, ratings, source, stated, row.prompt], sort_keys=True)
                self._contents.append(_RANK.get(stated or "", 2) << 62 | _hash64(content) >> 2)
                self._sources.append(source)
                self._levels.extend(levels.get(name, nan) for name in names)
                self._ratings.extend(ratings.get(name, nan) for name in names)
        self._drawn = np.ones(len(self._answers), bool)
        # The rows that stand for several of one answer; `_levels` and `_ratings` have the means then.
        self._merged = np.zeros(len(self._answers), bool)

    def __len__(self) -> int:
        return int(self._drawn.sum())

    def draw(self, limit: int | None) -> Counter[str]:
        """Keep one row of each answer to a prompt, and `limit` of these at most; returns how many others there were, and why.

        The choice is by hashes of prompt and answer, then of the whole row: fair, the same in any order of the files, and a larger
        limit's rows hold a smaller one's. The row that stays has the mean of all levels, and of the ratings of its own source, as
        scales differ.
        """
        answers = np.frombuffer(self._answers, np.uint64)
        order = np.lexsort((np.frombuffer(self._contents, np.uint64), answers))
        ranked = answers[order]
        starts = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1]))) if len(order) else order
        first, others = order[starts], np.diff(np.append(starts, len(order))) - 1
        if others.any():
            self._merged[first] = self._merge(order, starts, others)
        merged = int(others[self._merged[first]].sum())
        self._drawn = np.zeros(len(answers), bool)
        self._drawn[first[:limit]] = True
        return +Counter({MERGED: merged, DUPLICATE: int(others.sum()) - merged})

    def _merge(self, order: np.ndarray, starts: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Put the rows of each answer together in the first of them: `order` has all rows, an answer's from one of `starts` on, `others`
        how many more it has than one. Says (answers,) whether these had levels or ratings that are not all the same.
        """
        first = np.repeat(order[starts], others + 1)
        sources = np.frombuffer(self._sources, np.uint16)
        differ = np.zeros(len(starts), bool)
        for values, own in ((self._levels, None), (self._ratings, sources[order] == sources[first])):
            table = np.frombuffer(values).reshape(-1, len(self.names))
            rated = table[order]
            if own is not None:
                rated[~own] = nan
            known = ~np.isnan(rated)
            count = np.add.reduceat(known, starts, axis=0, dtype=int)
            lowest, highest = (of.reduceat(rated, starts, axis=0) for of in (np.fmin, np.fmax))
            differ |= ((count > 0) & ((count <= others[:, None]) | (highest > lowest))).any(axis=1)
            means = np.add.reduceat(np.where(known, rated, 0.0), starts, axis=0) / np.maximum(count, 1)
            table[order[starts]] = np.where(highest > lowest, means, lowest)
        return differ

    def __iter__(self) -> Iterator[Spooled]:
        with self.path.open(encoding="utf-8") as file:
            for number, (line, drawn) in enumerate(zip(file, self._drawn, strict=True)):
                if drawn:
                    source, stated, row, ratings = json.loads(line)
                    rated = Rated(stated, Row(*row), ratings)
                    yield Spooled(source, self._put_together(number, rated) if self._merged[number] else rated)

    def _put_together(self, number: int, rated: Rated) -> Rated:
        place = slice(number * len(self.names), (number + 1) * len(self.names))
        levels, ratings = (
            {name: value for name, value in zip(self.names, values[place], strict=True) if not isnan(value)}
            for values in (self._levels, self._ratings)
        )
        # A level that another source gives needs no cutting any more.
        return rated._replace(row=rated.row.with_levels(levels), ratings={n: v for n, v in ratings.items() if n not in levels})


def _choice(row: Row) -> str:
    """What tells a choice between two answers from the rating of one."""
    return "/worse/" + json.dumps(row.worse, sort_keys=True) if row.worse else ""


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
