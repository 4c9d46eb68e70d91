"""A rated row, a prompt, and JSON files read with errors that name file, row and remedy."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from moslim_core.data.bad_rows import BadRow, OnBad, shown, stop
from moslim_core.errors import UserError
from moslim_core.json_text import CHARACTERS, NOT_TEXT, NotJSON, elements, parse, well_formed
from moslim_core.preferences import Message


class Row(NamedTuple):
    """A rated answer. A label that is not there was not given: it is masked, never a class (docs/method.md section 1).

    `between`: the level itself where it lies between two whole ones; its label is the nearest, half rounded up. `worse`: an answer to
    the same prompt that this one was chosen over, by the preference that the choice is about.
    """

    prompt: list[Message]
    response: str
    labels: dict[str, int]
    source: str
    between: dict[str, float] | None = None
    worse: dict[str, str] | None = None

    def levels(self) -> dict[str, float]:
        """The levels of the preferences that are labelled, whole or between two."""
        return {**self.labels, **(self.between or {})}

    def with_levels(self, levels: Mapping[str, float]) -> Row:
        """The row with these levels, whole or between two, and no others."""
        between = {name: round(level, 6) for name, level in levels.items() if level != int(level)}
        return self._replace(labels={name: nearest(level) for name, level in levels.items()}, between=between or None)

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON lines file has it."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def nearest(level: float) -> int:
    """The whole level that one between two counts as: half is rounded up."""
    return math.floor(level + 0.5)


# As OpenAI, ShareGPT and their like call those who speak.
ROLES = {"system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user"} | dict.fromkeys(
    ("assistant", "gpt", "chatgpt", "bot", "model", "bing", "bard"), "assistant"
)


def turns(value: Any, place: str, what: str) -> list[Message]:
    """Messages {role, content}, ShareGPT's {from, value}, or text (one user turn) as messages. Raises BadRow."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise _no_turns(place, what, f"it is {type(value).__name__}")
    messages: list[Message] = []
    for message in value:
        if not isinstance(message, dict):
            raise _no_turns(place, what, f"it holds {type(message).__name__}")
        said = message.get("role", message.get("from"))
        role = ROLES.get(said.lower()) if isinstance(said, str) else None
        if role is None:
            raise _no_turns(place, what, f"it has the role {shown(said)}")
        messages.append({"role": role, "content": _text(message.get("content", message.get("value")), place, what)})
    return messages


def _text(content: Any, place: str, what: str) -> str:
    """Text, or the text of a list of parts {"type": "text", "text": ...}."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else None for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        content = "".join(texts) if len(texts) == len(parts) > 0 else None
    if not isinstance(content, str):
        raise _no_turns(place, what, "a message has no text, or more than text")
    return well_formed(content)


def _no_turns(place: str, what: str, why: str) -> BadRow:
    return BadRow(
        place,
        f"{what} is neither text nor messages",
        f"{what} is neither text nor a list of messages of system, user and assistant ({why})",
        'Write a string, or [{"role": "user", "content": "..."}, ...].',
    )


def conversation(value: Any, place: str) -> list[Message]:
    """A prompt as messages: a string is one user turn. Raises BadRow, naming `place`, on anything else or on no user turn."""
    messages = turns(value, place, "the prompt")
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        problem = "the prompt is empty or does not end with a user message"
        raise BadRow(place, problem, problem, "Mend or drop the row.")
    return messages


def plain_text(messages: Iterable[Message]) -> str:
    """A conversation as the reward model reads it: a single user turn as it is, else one paragraph a turn with its role."""
    turns = list(messages)
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n\n".join(f"{m['role']}: {m['content']}" for m in turns)


def prompt_key(messages: Iterable[Message]) -> str:
    """sha256 of the conversation, lower-cased and with white space folded: the same prompt never crosses splits."""
    return hashlib.sha256(" ".join(plain_text(messages).lower().split()).encode()).hexdigest()


def unit_hash(key: str, salt: str) -> float:
    """A number in [0, 1) that depends on nothing but `key` and `salt`."""
    return int.from_bytes(hashlib.sha256(f"{salt}/{key}".encode()).digest()[:8], "big") / 2**64


# What the first bytes of a file that is no UTF-8 text tell of it.
STARTS = {
    b"\xff\xfe": "Save the file as UTF-8: iconv -f utf-16 -t utf-8 FILE > NEW",
    b"\xfe\xff": "Save the file as UTF-8: iconv -f utf-16 -t utf-8 FILE > NEW",
    b"PAR1": "It is a Parquet file: let its name end in .parquet.",
    b"\x1f\x8b": "It is a gzip file: let its name end in .gz.",
    b"PK\x03\x04": "It is an Excel file or another archive: save it as CSV.",
}
# What older programs write on Windows; of what others write it differs in marks only.
LIKELIEST = "Save the file as UTF-8: iconv -f cp1252 -t utf-8 FILE > NEW"
# What reading a file may raise; a damaged gzip file's header is an OSError.
UNREADABLE = (UnicodeDecodeError, EOFError, zlib.error, OSError)


def unreadable(path: Path, number: int, error: Exception) -> UserError:
    """What to tell of a file that could not be read on after its row `number`."""
    if isinstance(error, UnicodeDecodeError):
        return UserError(f"{path}, near row {number + 1}: {NOT_TEXT}.\n{save_as_text(path)}")
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
        return UserError(f"{path}, after row {number}: the gzip file is truncated or damaged.\nCopy or download it again.")
    return UserError(f"{path}: can't be read ({getattr(error, 'strerror', None) or error}).\nCheck the path and its permissions.")


def save_as_text(path: Path, otherwise: str = LIKELIEST) -> str:
    """What makes a file that is no UTF-8 text one that can be read; `otherwise` where its first bytes do not tell. Raises OSError."""
    with _opener(path)(path, "rb") as file:
        start = file.read(4)
    return next((remedy for begins, remedy in STARTS.items() if start.startswith(begins)), otherwise)


def _opener(path: Path) -> Any:
    return gzip.open if path.suffix.lower() == ".gz" else open


def open_text(path: Path, newline: str | None = None) -> TextIO:
    """A text file, gzipped or not, without the byte order mark that some programs write. Bytes that are not UTF-8 become lone
    surrogates, for whoever reads a row to say where they are."""
    return _opener(path)(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline=newline)


ONE_A_LINE = "Write one JSON object a line, or one array of objects; a table's name ends in .csv or .tsv."


def read_json_lines(path: Path, bad: OnBad = stop) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, object) of a file of JSON lines, or of one array of objects; of a line the number is the line's.

    `bad` is told of what is no object. Raises UserError naming file, row and remedy where the file can't be read on.
    """
    number = 0
    try:
        with open_text(path) as file:
            for number, value in _json_values(file, path):
                if isinstance(value, NotJSON):
                    coded = str(value) == NOT_TEXT
                    problem, remedy = (NOT_TEXT, save_as_text(path)) if coded else (f"not JSON ({value})", ONE_A_LINE)
                    if number == 1:
                        # An archive's first bytes may be text.
                        remedy = save_as_text(path, remedy)
                    bad(BadRow(f"{path}, row {number}", NOT_TEXT if coded else "not JSON", problem, remedy))
                elif not isinstance(value, dict):
                    bad(BadRow(f"{path}, row {number}", "no JSON object", "a JSON object is needed", ONE_A_LINE))
                else:
                    yield number, value
    except UNREADABLE as error:
        raise unreadable(path, number, error) from error


def _json_values(file: TextIO, path: Path) -> Iterator[tuple[int, Any]]:
    """(number, value or NotJSON) of the lines, or of the elements of the array with which the file begins."""
    begun = 1
    # An array may be one line of any length, so of the first line no more is read than tells what it is.
    while (start := file.readline(CHARACTERS)) and not start.strip():
        begun += 1
    if start.lstrip().startswith("["):
        yield from _array(file, start, path)
        return
    lines = itertools.chain([start if start.endswith("\n") else start + file.readline()], file)
    for number, line in enumerate(lines, start=begun):
        if text := line.strip():
            yield number, _parsed(text)


def _parsed(text: str) -> Any:
    try:
        return parse(text)
    except NotJSON as error:
        return error


def _array(file: TextIO, start: str, path: Path) -> Iterator[tuple[int, Any]]:
    number = 0
    try:
        for number, value in enumerate(elements(file, start), start=1):
            yield number, value
    except NotJSON as error:
        raise UserError(f"{path}, row {number + 1}: not JSON ({error}).\n{ONE_A_LINE}") from error


def write_json_lines(path: Path, values: Iterable[dict[str, Any]]) -> int:
    """One JSON object a line; returns how many."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for value in values:
            file.write(json.dumps(value, ensure_ascii=False) + "\n")
            count += 1
    return count


def load_prompts(path: Path) -> list[list[Message]]:
    """The conversations of a file that this package wrote, such as `prompts.train.jsonl`."""
    return [value["prompt"] for _, value in read_json_lines(path)]


def load_rows(path: Path) -> list[Row]:
    """Rows that the label stage wrote."""
    return [Row(**value) for _, value in read_json_lines(path)]
