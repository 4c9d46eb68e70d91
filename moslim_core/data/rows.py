"""A rated row, a prompt, and JSON lines files read with errors that name file, row and remedy."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from moslim_core.errors import UserError
from moslim_core.preferences import Message


class Row(NamedTuple):
    """A rated answer. A label that is not there was not given: it is masked, never a class (docs/method.md section 1)."""

    prompt: list[Message]
    response: str
    labels: dict[str, int]
    source: str

    def to_json(self) -> dict[str, Any]:
        return self._asdict()


def conversation(value: Any, place: str) -> list[Message]:
    """A prompt as messages: a string is one user turn. Raises UserError, naming `place`, on anything else or on no user turn."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list) or not all(
        isinstance(m, dict) and m.get("role") in ("system", "user", "assistant") and isinstance(m.get("content"), str) for m in value
    ):
        raise UserError(
            f'{place}: the prompt is neither text nor a list of messages.\nWrite a string, or [{{"role": "user", "content": "..."}}, ...].'
        )
    if not value or value[-1]["role"] != "user" or not value[-1]["content"].strip():
        raise UserError(f"{place}: the prompt is empty or does not end with a user message.\nMend or drop the row.")
    return [{"role": m["role"], "content": well_formed(m["content"])} for m in value]


def well_formed(text: str) -> str:
    """`text` with U+FFFD for every lone surrogate: JSON escapes can spell them, no file and no tokenizer can hold them."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


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


# What reading a file may raise; a damaged gzip file's header is an OSError.
UNREADABLE = (UnicodeDecodeError, EOFError, zlib.error, OSError)


def unreadable(path: Path, number: int, error: Exception) -> UserError:
    """What to tell of a file that could not be read on after its row `number`."""
    if isinstance(error, UnicodeDecodeError):
        return UserError(f"{path}, near row {number + 1}: not UTF-8 text.\nSave the file as UTF-8 (iconv -t utf-8).")
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
        return UserError(f"{path}, after row {number}: the gzip file is truncated or damaged.\nCopy or download it again.")
    return UserError(f"{path}: can't be read ({getattr(error, 'strerror', None) or error}).\nCheck the path and its permissions.")


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of a .jsonl or .jsonl.gz file. Raises UserError naming file, line and remedy."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"{path}, row {number}: not JSON ({error.msg}).\nWrite one JSON object a line.") from error
                if not isinstance(value, dict):
                    raise UserError(f"{path}, row {number}: a JSON object is needed.\nWrite one JSON object a line.")
                yield number, value
    except UNREADABLE as error:
        raise unreadable(path, number, error) from error


def write_json_lines(path: Path, values: Iterable[dict[str, Any]]) -> int:
    """One JSON object a line; returns how many."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for value in values:
            file.write(json.dumps(value, ensure_ascii=False) + "\n")
            count += 1
    return count


def load_rows(path: Path) -> list[Row]:
    """Rows that the label stage wrote."""
    return [Row(**value) for _, value in read_json_lines(path)]
