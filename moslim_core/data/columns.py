"""Which columns of a file of rows are the prompt, the answer and the ratings, by their names and by what they hold. (ours)"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from moslim_core import registry
from moslim_core.data.bad_rows import BadRow, BadRows, shown
from moslim_core.data.binning import as_number, is_missing
from moslim_core.data.catalogue import HubSet
from moslim_core.data.first_levels import Proposed, proposed, words_without_order
from moslim_core.data.row_formats import CHOSEN, CONVERSATIONS, REJECTED, with_members
from moslim_core.data.tables import FORMATS, read_table
from moslim_core.errors import UserError
from moslim_core.json_text import NOT_TEXT

# So many rows are looked at: enough to see what a column holds.
MOST_ROWS = 20_000
# Names that people give them, the likeliest first.
PROMPTS = ("prompt", "question", "instruction", "query", "input", "user", "request", "message", "task", "document", "article", "text")
ANSWERS = ("response", "answer", "output", "completion", "reply", "assistant", "generation", "summary", "text")
# A column's name has so many words at most: the question of a form is one.
MOST_NAME_WORDS = 25
# Columns of numbers that rate nothing.
NO_RATING = re.compile(
    r"(?i)(?:^|_|\b)(?:id|idx|index|row|number|no|nr|seed|time|timestamp|date|created|length|tokens|words|user|annotator|rater)(?:$|_|\b)"
)


class Ratings(NamedTuple):
    """A column that rates answers, the preference that it is proposed as, and its levels."""

    column: str
    preference: str
    levels: Proposed


class Found(NamedTuple):
    """What a file's columns are. `messages`: that of conversations; `pairs`: rows are choices between two answers.

    `lengths`: words of prompts and answers, a row each; `prompts`: how many differ, `several`: those with two answers or more, and
    `answers`: how many these mostly have.
    `notes`: what is unclear; `unused`: {column: why it is no rating}.
    """

    form: str
    rows: int
    prompt: str | None
    response: str | None
    messages: str | None
    pairs: bool
    ratings: tuple[Ratings, ...]
    lengths: np.ndarray
    prompts: int
    several: int
    answers: int
    notes: tuple[str, ...]
    unused: dict[str, str]


def find(path: Path, orders: Mapping[str, Sequence[str]] = MappingProxyType({})) -> Found:
    """Look at a table. Raises UserError where it has no rows, or no prompts and answers.

    `orders`: {column: the words of its levels, lowest first}, for columns whose words have no order that is known here.
    """
    form = next((f for f, ends in FORMATS.items() if path.name.lower().endswith(ends)), "jsonl")
    bad = BadRows("drop")

    def note(error: BadRow) -> None:
        # In a file of another code the rows without accents can be read: they are no sample of it.
        if error.reason == NOT_TEXT:
            raise error
        bad(error)

    rows = [with_members(row) for _, (_, row) in zip(range(MOST_ROWS), read_table(path, note, form), strict=False)]
    if not rows:
        raise bad.first or UserError(f"{path}: the file has no rows.\nGive a file with one rated answer a row.")
    _need_own_rows(rows[0], path)
    values: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            values[name].append(value)
    if form == "csv":
        _need_names(values, path)
    if unknown := [column for column in orders if column not in values]:
        raise UserError(f"--levels {unknown[0]}=...: {path} has no such column.\nThere are: {', '.join(map(shown, list(values)[:12]))}.")
    notes: list[str] = []
    messages = next((name for name in CONVERSATIONS if name in values), None)
    pairs = CHOSEN in values and REJECTED in values
    prompt = response = None
    if pairs:
        prompt = next((name for name in values if name.lower() in PROMPTS), None)
    elif messages is None or _named(values, PROMPTS):
        prompt, response = _prompt_and_answer(values, path, notes)
        messages = None
    taken = {prompt, response, messages, *((CHOSEN, REJECTED) if pairs else ())}
    # Of records the members may rate.
    others = {name: of for name, of in values.items() if name not in taken and not any(isinstance(value, dict) for value in of)}
    ratings, unused = _ratings(others, len(rows), orders)
    lengths = _lengths(rows, prompt, response or (CHOSEN if pairs else None), messages)
    answers: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        asked, answer = row.get(prompt or messages or CHOSEN), row.get(response or "")
        if prompt is None and isinstance(asked, list):
            # A conversation's last turn is the answer.
            asked, answer = asked[:-1], asked[-1:]
        answers[str(asked).strip().lower()].add(str(answer))
    counted = [2 if pairs else len(of) for of in answers.values()]
    several = [count for count in counted if count > 1]
    mostly = int(np.median(several)) if several else 1
    return Found(
        form, len(rows), prompt, response, messages, pairs, ratings, lengths, len(answers), len(several), mostly, tuple(notes), unused
    )


def _need_names(columns: Collection[str], path: Path) -> None:
    """Raises UserError for a table whose first row is none of names. A column may be called by a number beside others that have names."""
    if any(name.lower().strip() in (*PROMPTS, *ANSWERS) for name in columns):
        return
    for name in columns:
        if as_number(name) is not None or len(name.split()) > MOST_NAME_WORDS:
            raise UserError(
                f"{path}: the first row holds {shown(name)}, which looks like data and not like a column's name.\n"
                "Put a row of names above it, e.g. prompt,response,warmth."
            )


def _need_own_rows(row: dict[str, Any], path: Path) -> None:
    """Raises UserError for a record of a data set that is known by a name, whose answers and ratings are inside others."""
    if "response" in row or CHOSEN in row:
        return
    for name in registry.source.names:
        known = registry.source[name]
        if issubclass(known, HubSet) and _is_record(row, known):
            raise UserError(
                f"{path}: records of {name}, which are read by that name and need no columns named.\n"
                f"In a profile with your preferences: --set data.source={name} --set data.path=FOLDER, where the file is called "
                f"{' or '.join(list(known.files)[:2])}."
            )


def _is_record(row: dict[str, Any], known: type[HubSet]) -> bool:
    try:
        return any("response" in one or CHOSEN in one for one in known.expand(row))
    except (KeyError, TypeError, AttributeError, ValueError):
        return False


def _prompt_and_answer(values: dict[str, list[Any]], path: Path, notes: list[str]) -> tuple[str, str]:
    """By name, else by what they hold: of two columns of text the prompt has fewer different ones, or stands first."""
    prompt, response = _named(values, PROMPTS), _named(values, ANSWERS)
    # Columns called text or message may be either one.
    texts = [name for name, of in values.items() if name not in (prompt, response) and _is_text(of)]
    if prompt == response:
        response = None
    if prompt is None and response is None and len(texts) > 1:
        first, second = texts[:2]
        turned = len({str(v) for v in values[second]}) < len({str(v) for v in values[first]})
        prompt, response = (second, first) if turned else (first, second)
        notes.append(f"the prompt is taken from column {prompt!r}, the answer from {response!r}: check that this is right")
    elif (prompt is None or response is None) and texts:
        if prompt is None:
            prompt = texts[0]
            notes.append(f"the prompt is taken from column {prompt!r}: check that this is right")
        else:
            response = max(texts, key=lambda name: sum(len(str(v)) for v in values[name]))
            notes.append(f"the answer is taken from column {response!r}: check that this is right")
    if prompt is None or response is None:
        lacking = "prompts" if prompt is None else "answers"
        raise UserError(
            f"{path}: no column of {lacking} was found (there are: {', '.join(list(values)[:12])}).\n"
            "Call the columns prompt and response; answers can be drawn for a file of prompts: moslim sample --prompts FILE"
        )
    return prompt, response


def _named(values: Iterable[str], names: tuple[str, ...]) -> str | None:
    """The column with one of these names, or with one of them as a word of its own."""
    columns = {column.lower().strip(): column for column in values}
    exact = next((columns[name] for name in names if name in columns), None)
    return exact or next((of for name in names for column, of in columns.items() if name in re.split(r"[\W_]+", column)), None)


def _is_text(values: list[Any]) -> bool:
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    return len(texts) > len(values) / 2 and float(np.mean([len(text.split()) for text in texts])) > 2


def _ratings(values: dict[str, list[Any]], rows: int, orders: Mapping[str, Sequence[str]]) -> tuple[tuple[Ratings, ...], dict[str, str]]:
    ratings: list[Ratings] = []
    unused: dict[str, str] = {}
    for column, of in values.items():
        counted = Counter(_hashable(value) for value in of)
        levels = None
        if column == "source":
            continue
        if column in orders:
            preference = _preference(column, [r.preference for r in ratings])
            ratings.append(Ratings(column, preference, _ordered(column, counted, preference, orders[column])))
        elif NO_RATING.search(column):
            unused[column] = "by its name it rates nothing"
        elif len(counted) == rows > 20 and all(str(value).strip().isdigit() for value in counted):
            unused[column] = "its numbers all differ, as numbers of rows do"
        elif len({value for value in counted if not is_missing(value)}) < 2:
            unused[column] = "all its values are the same"
        elif (levels := proposed(counted, preference := _preference(column, [r.preference for r in ratings]))) is None:
            words = words_without_order(counted)
            unused[column] = "neither numbers nor words of a known order"
            if words:
                given = shlex.quote(f"{column}={','.join(words)}")
                unused[column] = f"words of no order that is known here; a line of --levels has their order, lowest first: {given}"
        else:
            ratings.append(Ratings(column, preference, levels))
    return tuple(ratings), unused


def _ordered(column: str, counted: Counter[Any], preference: str, order: Sequence[str]) -> Proposed:
    """Levels in the order that somebody gave. Raises UserError where the column has other words."""
    levels = proposed(counted, preference, order)
    if levels is None:
        words = ", ".join(shown(value) for value, _ in counted.most_common(7))
        raise UserError(f"--levels {column}={','.join(order)}: fewer than two of these stand in the column.\nIt has: {words}.")
    return levels


def _hashable(value: Any) -> Any:
    # True is 1 to a dictionary, and may stand beside it.
    return tuple(map(_hashable, value)) if isinstance(value, list) else str(value) if isinstance(value, dict | bool) else value


def _preference(column: str, taken: list[str]) -> str:
    """A column's name as a preference's: lower-case letters, digits and underscores, and no other's.

    Brackets at its end, `Tone (1-5)`, tell of the scale, and what stands before a point, `ratings.tone`, of the record that it is in.
    """
    bare = re.sub(r"[(\[][^()\[\]]*[)\]]\s*$", "", column).strip() or column
    bare = re.sub(r"^(?:\w+\.)+(?=[^\W\d])", "", bare)
    plain = unicodedata.normalize("NFKD", bare).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")
    name = re.sub(r"_(?:score|rating|level)$|^(?:score|rating|level)_", "", name) or "rating"
    name = name if name[0].isalpha() else f"rating_{name}"
    return name if name not in taken else next(n for i in range(2, 1000) if (n := f"{name}_{i}") not in taken)


def _lengths(rows: list[dict[str, Any]], prompt: str | None, response: str | None, messages: str | None) -> np.ndarray:
    """(n, 2) words of the prompt and of the answer; of a conversation all but its last part are the prompt's."""
    if messages is not None:
        whole = [len(str(row.get(messages, "")).split()) for row in rows]
        return np.array([[words, words // 2] for words in whole])
    return np.array([[len(str(row.get(name, "")).split()) if name else 0 for name in (prompt, response)] for row in rows])
