"""JSON as people have it: one value a line or one array, with what Python's parser lets pass or dies of made a plain problem.

Refused: a name that stands twice in an object (the last would silently win), numbers of more digits than any data has, and nesting
beyond what can be written again. Escapes that spell half a character become U+FFFD, as no file and no tokenizer can hold them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

# A whole number of so many digits is still a finite float.
MOST_DIGITS = 300
MOST_DEPTH = 200
CHARACTERS = 2**20
NOT_TEXT = "not UTF-8 text"
TOO_DEEP = "nested too deeply"

_BLANK = re.compile(r"[ \t\n\r]*")


class NotJSON(ValueError):
    """What is wrong with a text."""


def parse(text: str) -> Any:
    """The one value of a text. Raises NotJSON."""
    value, end = _decoded(text, _BLANK.match(text).end())  # type: ignore[union-attr]
    if text[end:].strip():
        raise NotJSON("Extra data")
    return value


def elements(file: TextIO, start: str) -> Iterator[Any]:
    """The values of an array that begins with the text `start` and goes on in the file, or NotJSON for one that is no use.

    Holds one of them and a piece of the file. Raises NotJSON where the array is cut or damaged: nothing after that can be told apart.
    """
    text, at, first = start, start.index("[") + 1, True
    while True:
        text, at = _ahead(file, text, at)
        if text[at : at + 1] == "]":
            text, at = _ahead(file, text, at + 1)
            if at < len(text):
                raise NotJSON("Extra data after the array")
            return
        if not first:
            if text[at : at + 1] != ",":
                raise NotJSON("Expecting ',' or ']'" if at < len(text) else "the array is cut off")
            text, at = _ahead(file, text, at + 1)
        first = False
        while True:
            try:
                value, end = _decoded(text, at)
                # More digits may follow.
                if end == len(text) and isinstance(value, int | float) and (more := file.read(CHARACTERS)):
                    text, at = text[at:] + more, 0
                    continue
            except _Unfinished as error:
                # Twice as much each time: a long value is not parsed once for every piece of it.
                more = file.read(max(CHARACTERS, len(text)))
                if not more:
                    raise NotJSON(f"{error}: the array is cut off") from error
                text, at = text[at:] + more, 0
            except _Useless as error:
                at = error.end
                yield error
                break
            else:
                at = end
                yield value
                break


class _Unfinished(NotJSON):
    """The text ends within a value."""


class _Useless(NotJSON):
    """A value that ends at `end`, and can't be used."""

    def __init__(self, problem: str, end: int) -> None:
        super().__init__(problem)
        self.end = end


def _ahead(file: TextIO, text: str, at: int) -> tuple[str, int]:
    """(text, place in it) of what comes after blanks; the place is the text's end where the file is over."""
    while (at := _BLANK.match(text, at).end()) == len(text):  # type: ignore[union-attr]
        text, at = file.read(CHARACTERS), 0
        if not text:
            break
    return text, at


def _decoded(text: str, at: int) -> tuple[Any, int]:
    """(value, its end) of the value that begins at `at`. Raises NotJSON."""
    problems: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            problems.append(f"the name {next(n for n in names if names.count(n) > 1)[:40]!r} stands twice in one object")
        return made

    def whole(digits: str) -> int:
        if len(digits) <= MOST_DIGITS:
            return int(digits)
        problems.append(f"a number of more than {MOST_DIGITS} digits")
        return 0

    try:
        value, end = json.JSONDecoder(object_pairs_hook=unique, parse_int=whole).raw_decode(text, at)
        if not text.isascii() and not is_text(text[at:end]):
            problems.append(NOT_TEXT)
    except json.JSONDecodeError as error:
        # A token that the end of the text cuts is at most as long as -Infinity, but a string may have begun anywhere.
        cut = error.msg.startswith("Unterminated string") or error.pos >= len(text) - len("-Infinity")
        raise (_Unfinished if cut else NotJSON)(error.msg) from error
    except RecursionError as error:
        raise NotJSON(TOO_DEEP) from error
    try:
        value = _checked(value, MOST_DEPTH)
    except RecursionError:
        problems.append(TOO_DEEP)
    if problems:
        raise _Useless(problems[0], end)
    return value, end


def is_text(text: str) -> bool:
    """Whether no byte of it was escaped by surrogateescape, that is: whether the file is UTF-8 here."""
    try:
        text.encode()
        return True
    except UnicodeEncodeError:
        return False


def _checked(value: Any, depth: int) -> Any:
    """The value with half characters replaced. Raises RecursionError below `depth`."""
    if isinstance(value, str):
        return well_formed(value)
    if not isinstance(value, dict | list):
        return value
    if depth == 0:
        raise RecursionError
    if isinstance(value, list):
        return [_checked(item, depth - 1) for item in value]
    return {well_formed(name): _checked(item, depth - 1) for name, item in value.items()}


def writable(value: Any) -> Any:
    """The value with null for NaN and infinities, which JSON has no numbers for: Python would write words that other readers refuse."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: writable(item) for name, item in value.items()}
    return [writable(item) for item in value] if isinstance(value, list | tuple) else value


def well_formed(text: str) -> str:
    """`text` with U+FFFD for every lone surrogate: JSON escapes can spell them, no file and no tokenizer can hold them."""
    if text.isascii() or is_text(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
