"""A column of ratings -> the levels that are proposed for it: how many, and which rating is which. (ours)

Whole numbers and words of a known order get a table, other numbers thresholds. Levels that hardly any row has are joined with the next
one, as nothing can be learnt from a handful of rows.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from moslim_core.data.binning import as_number, is_missing, quantile_thresholds
from moslim_core.json_text import NotJSON, parse

# A table of more ratings is cut by thresholds instead, so that a person can still read it.
MOST_IN_TABLE = 7
# Levels of ratings that thresholds cut: more need more rows.
FEW_LEVELS, MANY_LEVELS, MANY_ROWS = 3, 5, 1000
# A level has this share of the rated rows at least, and so many rows.
LEAST_SHARE, LEAST_ROWS = 0.03, 10
# Of the values of a column that is a rating so many can be read as one.
MOSTLY = 0.8

# Words for levels as people write them, lowest first; each entry is one level.
NO, YES = ("no", "false", "n", "0"), ("yes", "true", "y", "1")
GRADES = (("f",), ("e",), ("d", "d-", "d+"), ("c", "c-", "c+"), ("b", "b-", "b+"), ("a", "a-", "a+"))
ORDERS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (NO, YES),
    (("bad", "negative", "thumbs down", "thumbs_down", "down", "👎", "dislike"), ("neutral", "ok", "okay", "mixed"),
     ("good", "positive", "thumbs up", "thumbs_up", "up", "👍", "like")),
    (("very low", "lowest"), ("low",), ("medium", "middle", "moderate", "mid"), ("high",), ("very high", "highest")),
    (("terrible", "very poor", "awful", "very bad"), ("poor", "bad"), ("fair", "ok", "okay", "average"), ("good",), ("very good",),
     ("excellent",)),
    (("never",), ("rarely", "seldom"), ("sometimes",), ("often", "usually"), ("always",)),
    (("none", "not at all"), ("slightly", "a little", "little", "some"), ("somewhat", "moderately"), ("very", "much", "a lot"),
     ("extremely",)),
    (("strongly disagree",), ("disagree",), ("neutral", "neither"), ("agree",), ("strongly agree",)),
    (("low",), ("mid", "middle"), ("high",)),
    (("short",), ("medium",), ("long",)),
    (("none",), ("mild",), ("moderate",), ("severe",)),
    (("beginner", "novice", "basic"), ("intermediate",), ("advanced",), ("expert",)),
    GRADES,
    (("fail",), ("pass",)),
)  # fmt: skip

# A run reads plain numbers; what people write besides gets a table: 85 %, 4 stars, 7,5 and ★★★☆☆.
_WITH_UNIT, _STARS = re.compile(r"([+-]?[0-9]+(?:[.,][0-9]+)?)\s*(?:%|stars?)?\Z", re.I), re.compile(r"(\*+|[★⭐]+)☆*\Z")
MOST_WRITTEN = 1001
# Of a level's name.
MOST_WORDS = 4
MANY = "as there are many"
_OF = re.compile(r"\s*[^/]+/\s*([0-9.]+)\s*\Z")
_LABEL = re.compile(r"[^A-Za-z0-9 '-]+")
WORDS = {2: ("low", "high"), 3: ("low", "medium", "high"), 4: ("very low", "low", "high", "very high")}
WORDS[5] = ("very low", "low", "medium", "high", "very high")


class Proposed(NamedTuple):
    """Levels for one column: a table {rating as written: level, or null} or thresholds; `labels`, lowest first; `rows`: of each level.

    `notes`: what a person should look at.
    """

    labels: tuple[str, ...]
    table: dict[str, int | None] | None
    thresholds: tuple[float, ...] | None
    rows: tuple[int, ...]
    notes: tuple[str, ...]


def proposed(values: Counter[Any], name: str, order: Sequence[str] = ()) -> Proposed | None:
    """Levels for the ratings `values` {rating as it stands in the file: rows}, of the preference `name`; None where they are no ratings.

    `order`: the words that stand for the levels, lowest first, where somebody has said so.
    """
    single = Counter(dict(_spread(values)))
    rated = Counter({value: rows for value, rows in single.items() if not is_missing(value)})
    if order:
        return _in_order(single, name, order)
    # `none` may be a word of a scale.
    return _of_numbers(single, name, rated.total()) or _of_words(single, name) or _of_words(rated, name)


def words_without_order(values: Counter[Any]) -> list[str] | None:
    """The words that a column has in place of numbers, by the alphabet, where they may be levels; None where they are no such words."""
    words = sorted({word for value in dict(_spread(values)) if not is_missing(word := str(value).strip().lower()) or word == "none"})
    short = all(len(word.split()) <= MOST_WORDS and "," not in word for word in words)
    return words if short and 2 <= len(words) <= MOST_IN_TABLE else None


def _in_order(single: Counter[Any], name: str, order: Sequence[str]) -> Proposed | None:
    places = {word.strip().lower(): place for place, word in enumerate(order, start=1)}
    of = {value: places[word] for value in single if (word := str(value).strip().lower()) in places}
    if len(set(of.values())) < 2:
        return None
    table = {str(value): level for value, level in sorted(of.items(), key=lambda item: item[1])}
    return _proposed(tuple(_label(word, name) for word in order), table, None, single, of, range(len(order)), single.total())


def _number(value: Any, top: float | None) -> float | None:
    """A rating as a number, also where a run would need a table to read it."""
    plain = as_number(value, top)
    if plain is not None or not isinstance(value, str):
        return plain
    if stars := _STARS.match(value):
        return float(len(stars[1]))
    return float(unit[1].replace(",", ".")) if (unit := _WITH_UNIT.match(value)) else None


def _spread(values: Mapping[Any, int]) -> Iterator[tuple[Any, float]]:
    """(one rating, rows) with the raters of a list taken one by one; nothing for what is not rated."""
    counts: Counter[Any] = Counter()
    for value, rows in values.items():
        read = value.strip() if isinstance(value, str) else value
        if isinstance(read, str) and read.startswith("["):
            with contextlib.suppress(NotJSON):
                read = parse(read)
        several = read if isinstance(read, list | tuple) else [read]
        for each in several:
            if each not in (None, "") and not isinstance(each, list | dict):
                counts[each if not isinstance(each, str) else each.strip()] += rows / len(several)  # type: ignore[assignment]  # several raters share a row
    yield from counts.items()


def _of_words(single: Counter[Any], name: str) -> Proposed | None:
    total = single.total()
    written = {value: str(value).strip().lower() for value in single}
    for order in ORDERS:
        # A and B alone are names, of models or of raters.
        least = 3 if order is GRADES else 2
        places = {word: place for place, level in enumerate(order) for word in level}
        known = {value: places[word] for value, word in written.items() if word in places}
        if sum(single[value] for value in known) < MOSTLY * total or len(set(known.values())) < least:
            continue
        used = sorted(set(known.values()))
        levels = _joined([sum(single[v] for v, place in known.items() if place == at) for at in used], total)
        table = {str(value): levels[used.index(place)] for value, place in sorted(known.items(), key=lambda item: item[1])}
        # Each level by the word that most rows have.
        best = {level: max((v for v in known if table[str(v)] == level), key=lambda v: single[v]) for level in set(table.values())}
        labels = tuple(_label(str(best[level]), name) for level in sorted(best))
        if len(set(labels)) < len(labels):
            labels = _numbered(len(labels), name)
        made = _proposed(labels, table, None, single, {v: table[str(v)] for v in known}, levels, total)
        return made._replace(notes=(*_alike(order, single, written), *made.notes))
    return None


def _alike(order: Sequence[tuple[str, ...]], single: Counter[Any], written: Mapping[Any, str]) -> Iterator[str]:
    """What words of one place many rows have."""
    rows = Counter[str]()
    for value, word in written.items():
        rows[word] += single[value]
    for words in order:
        if len(many := [word for word in words if rows[word] >= LEAST_ROWS]) > 1:
            yield f"{' and '.join(many)} count as one level: another order is given by --levels"


def _of_numbers(single: Counter[Any], name: str, total: float) -> Proposed | None:
    tops = {float(of[1]) for value in single if isinstance(value, str) and (of := _OF.match(value))}
    top = tops.pop() if len(tops) == 1 else None
    numbers = {value: number for value in single if (number := _number(value, top)) is not None}
    if sum(single[value] for value in numbers) < MOSTLY * total or len(set(numbers.values())) < 2:
        return None
    rows: Counter[float] = Counter()
    for value, number in numbers.items():
        rows[number] += single[value]
    rows = _without_strays(rows, total)
    numbers = {value: number for value, number in numbers.items() if number in rows}
    whole = sorted(n for n in rows if n.is_integer())
    spans = not whole or whole[-1] - whole[0] + 1
    few = sum(rows[n] for n in whole) >= MOSTLY * total and spans <= MOST_IN_TABLE
    if not few and top is None:
        return _cut(rows, name, single, numbers, total)
    lowest, highest = math.floor(min(rows)), math.ceil(max(rows))
    scale = [float(n) for n in range(lowest, highest + 1)]
    if len(scale) > 101:
        return None
    counted = [sum(count for n, count in rows.items() if _nearest(n) == s) for s in scale]
    levels = _joined(counted, total) if len(scale) <= MOST_IN_TABLE else _evened(scale, counted)
    if levels[-1] < 2:
        return None
    table = {f"{s:g}": level for s, level in zip(scale, levels, strict=True)}
    if top is not None and f"{top:g}" not in table:
        table[f"{top:g}"] = levels[-1]
    level_of = {value: levels[scale.index(_nearest(number))] for value, number in numbers.items()}
    table |= {str(value): level for value, level in level_of.items() if as_number(value, top) is None}
    return _proposed(_numbered(levels[-1], name), table, None, single, level_of, levels, total)


def _without_strays(rows: Counter[float], total: float) -> Counter[float]:
    """Of whole numbers that are too far apart for a table those of a short scale, where hardly any row has another: slips of the pen.

    What is no farther from the scale than its own numbers are from one another goes on with it: a 10 is rare where most say 4 to 7.
    """
    few = max(1.0, LEAST_SHARE * total)
    usual = sorted(n for n, count in rows.items() if count > few)
    if len(usual) < 2 or not all(n.is_integer() for n in usual) or max(rows) - min(rows) < MOST_IN_TABLE:
        return rows
    step = max(b - a for a, b in itertools.pairwise(usual))
    low, high = usual[0], usual[-1]
    for n in sorted(rows):
        high = n if high < n <= high + step else high
    for n in sorted(rows, reverse=True):
        low = n if low - step <= n < low else low
    within = Counter({n: count for n, count in rows.items() if low <= n <= high})
    return within if high - low < MOST_IN_TABLE and rows.total() - within.total() <= few else rows


def _nearest(number: float) -> float:
    return float(math.floor(number + 0.5))


def _cut(rows: Counter[float], name: str, single: Counter[Any], numbers: Mapping[Any, float], total: float) -> Proposed | None:
    ratings = np.repeat(np.array(sorted(rows)), [max(1, round(rows[n])) for n in sorted(rows)])
    k = MANY_LEVELS if total >= MANY_ROWS else FEW_LEVELS
    at = quantile_thresholds(ratings, min(k, len(rows)))
    if at is None:
        return None
    values = np.unique(ratings)
    # Between two ratings that occur, where it can be written in few digits.
    thresholds = tuple(_between(t, float(values[np.searchsorted(values, t, side="right")])) for t in at)
    of = {value: 1 + int(np.searchsorted(thresholds, number)) for value, number in numbers.items()}
    k = len(thresholds) + 1
    if any(as_number(value) is None for value in numbers):
        table = {str(value): of[value] for value in sorted(numbers, key=lambda value: numbers[value])}
        return None if len(table) > MOST_WRITTEN else _proposed(_numbered(k, name), table, None, single, of, of.values(), total, MANY)
    return _proposed(_numbered(k, name), None, thresholds, single, of, of.values(), total, MANY)


def _between(low: float, high: float) -> float:
    for digits in range(17):
        if low <= (middle := round((low + high) / 2, digits)) < high:
            return middle
    return low


def _joined(counted: Sequence[float], total: float) -> list[int]:
    """The level of each place of a scale with so many rows: those of few rows are joined with a neighbour, until two levels are left."""
    least = max(LEAST_ROWS, LEAST_SHARE * total)
    groups = [[place] for place in range(len(counted))]
    while len(groups) > 2:
        sizes = [sum(counted[place] for place in group) for group in groups]
        poorest = min(range(len(groups)), key=sizes.__getitem__)
        if sizes[poorest] >= least:
            break
        beside = min((i for i in (poorest - 1, poorest + 1) if 0 <= i < len(groups)), key=sizes.__getitem__)
        first = min(poorest, beside)
        groups[first : first + 2] = [groups[first] + groups[first + 1]]
    return [level for level, group in enumerate(groups, start=1) for _ in group]


def _evened(scale: Sequence[float], counted: Sequence[float]) -> list[int]:
    """Levels of a long scale of whole numbers, as even as can be."""
    ratings = np.repeat(scale, [round(c) for c in counted])
    k = MANY_LEVELS if len(ratings) >= MANY_ROWS else FEW_LEVELS
    at = quantile_thresholds(ratings, min(k, len(np.unique(ratings))))
    return [1 + int(np.searchsorted(at, s)) for s in scale] if at is not None else [1 for _ in scale]


def _proposed(
    labels: tuple[str, ...],
    table: Mapping[str, int] | None,
    thresholds: tuple[float, ...] | None,
    single: Counter[Any],
    of: Mapping[Any, int],
    levels: Collection[int],
    total: float,
    joined_for: str = "as some were given to few rows only",
) -> Proposed:
    rows = Counter[int]()
    for value, level in of.items():
        rows[level] += single[value]
    notes = []
    if len(levels) > len(labels):
        notes.append(f"{len(levels)} different ratings are joined to {len(labels)} levels, {joined_for}")
    few = [label for level, label in enumerate(labels, start=1) if rows[level] < max(LEAST_ROWS, LEAST_SHARE * total)]
    if few:
        notes.append(f"few rows at {', '.join(few)}: rate more of these, or join levels")
    highest = max(rows.values()) / sum(rows.values())
    if highest > 0.7:
        notes.append(f"{highest:.0%} of the rows are at one level: the others are learnt from the rest")
    odd = {str(value): single[value] for value in single if value not in of and not is_missing(value)}
    if odd:
        what = "count as not rated" if table is not None else "leave their rows out"
        notes.append(f"none of the scale: {round(sum(odd.values()))} rated {', '.join(list(odd)[:3])}, which {what}")
        if any(re.search(r"[^\W\d_]", word) for word in odd):
            notes[-1] += "; words get a place by --levels"
    return Proposed(
        labels,
        None if table is None else {**table, **dict.fromkeys(odd)},
        thresholds,
        tuple(round(rows[level]) for level in range(1, len(labels) + 1)),
        tuple(notes),
    )


def _numbered(k: int, name: str) -> tuple[str, ...]:
    return tuple(f"{word} {name.replace('_', ' ')}" for word in WORDS[k]) if k in WORDS else tuple(f"{name} {n}" for n in range(1, k + 1))


def _label(word: str, name: str) -> str:
    """A word of the ratings as a level's label; yes and no say nothing by themselves."""
    if word.lower() in (*NO, *YES):
        return f"{'with' if word.lower() in YES else 'without'} {name.replace('_', ' ')}"
    return _LABEL.sub(" ", word).strip().lower() or name
