"""What a row is, told by the columns that it has: an answer to a prompt, a conversation that ends with one, or a choice of two.

| a row has | it is |
|---|---|
| `data.columns.prompt` and `.response` | a prompt and its answer |
| `messages` (OpenAI) or `conversations` (ShareGPT) | a conversation: the last assistant turn answers what comes before it |
| `chosen` and `rejected` | two answers to a prompt, or two conversations that differ in their last turn |

The settings may name other columns; what the first row of the table finds counts before the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from moslim_core.data.bad_rows import BadRow, shown
from moslim_core.data.rows import conversation, turns
from moslim_core.data.settings import ColumnSettings
from moslim_core.json_text import NotJSON, parse
from moslim_core.preferences import Message

CONVERSATIONS = ("messages", "conversations", "conversation")
CHOSEN, REJECTED = "chosen", "rejected"
# So many columns of a row are named in an error.
NAMED = 12

# Anthropic's pairs are texts with these marks.
_SPEAKERS = re.compile(r"\n\n(Human|Assistant):")


class Shape(NamedTuple):
    """A prompt and an answer; of a choice between two, `response` was chosen over `rejected`."""

    prompt: list[Message]
    response: str
    rejected: str | None = None


def shape_of(row: Mapping[str, Any], columns: ColumnSettings, place: str) -> Shape:
    """What a row is. Raises BadRow, naming `place`."""
    if columns.prompt in row and columns.response in row:
        return Shape(conversation(row[columns.prompt], place), _answer(row[columns.response], columns.response, place))
    if CHOSEN in row and REJECTED in row and columns.messages is None:
        return Shape(*choice_of(row, columns.prompt, place))
    if (column := _conversation_column(row, columns)) is not None:
        return Shape(*_split(turns(_unpacked(row[column]), place, f"column {column!r}"), f"column {column!r}", place))
    need(row, columns.messages or columns.prompt, place)
    need(row, columns.response, place)
    raise AssertionError("one of the two is missing")


def prompt_of(row: Mapping[str, Any], columns: ColumnSettings, place: str) -> list[Message]:
    """The prompt alone; of a conversation, all up to its last user turn. Raises BadRow, naming `place`."""
    if columns.prompt in row:
        return conversation(row[columns.prompt], place)
    column = _conversation_column(row, columns)
    if column is None:
        need(row, columns.prompt, place)
    messages = turns(_unpacked(row[column or columns.prompt]), place, f"column {column!r}")
    last = max((i for i, turn in enumerate(messages) if turn["role"] == "user"), default=-1)
    return conversation(messages[: last + 1], place)


def with_members(row: dict[str, Any]) -> dict[str, Any]:
    """The row, and beside each column of records one for each of their members, such as `ratings.warmth`."""
    members = {f"{column}.{name}": value for column, of in row.items() if isinstance(of, dict) for name, value in with_members(of).items()}
    return members | row if members else row


def need(row: Mapping[str, Any], column: str, place: str) -> None:
    """Raises BadRow where a row has no such column."""
    if column not in row:
        there = [shown(str(name), 30) for name in list(row)[:NAMED]] + ["..."] * (len(row) > NAMED)
        problem = f"column {column!r} is missing"
        raise BadRow(
            place,
            problem,
            f"{problem} (there are: {', '.join(there) or 'none'})",
            "Name the column under data.columns in the profile, or rename it.",
        )


def _conversation_column(row: Mapping[str, Any], columns: ColumnSettings) -> str | None:
    named = CONVERSATIONS if columns.messages is None else (columns.messages,)
    return next((column for column in named if column in row), None)


def _unpacked(value: Any) -> Any:
    """Messages that a table of text holds as JSON, as a list. Of columns of conversations only: a prompt may be text that looks so."""
    try:
        return parse(value) if isinstance(value, str) else value
    except NotJSON:
        return value


def _split(messages: list[Message], what: str, place: str) -> tuple[list[Message], str]:
    """(prompt, answer) of a conversation: the last assistant turn, and what comes before it. Raises BadRow."""
    last = max((i for i, turn in enumerate(messages) if turn["role"] == "assistant"), default=None)
    if last is None:
        problem = f"{what} has no assistant turn"
        raise BadRow(place, problem, problem, "Mend or drop the row.")
    return conversation(messages[:last], place), messages[last]["content"]


def _answer(value: Any, column: str, place: str) -> str:
    """An answer that is text, or messages of which the last is the answer. Raises BadRow."""
    if isinstance(value, list):
        messages = turns(value, place, f"column {column!r}")
        if messages and messages[-1]["role"] == "assistant":
            return messages[-1]["content"]
    if not isinstance(value, str):
        kind = "messages that end with no answer" if isinstance(value, list) else type(value).__name__
        raise BadRow(place, f"column {column!r} is no text", f"column {column!r} holds {kind}, text is needed", "Write the answer as text.")
    return turns(value, place, column)[0]["content"]


def choice_of(row: Mapping[str, Any], prompt: str, place: str) -> tuple[list[Message], str, str]:
    """(prompt, chosen, rejected): two answers to the prompt that a column holds, or that both conversations begin with. Raises BadRow."""
    for column in (CHOSEN, REJECTED):
        need(row, column, place)
    better, worse = (row[column] if prompt in row else _spoken(row[column]) for column in (CHOSEN, REJECTED))
    if isinstance(better, list) and isinstance(worse, list) and (prompt not in row or min(len(better), len(worse)) > 1):
        (question, chosen), (other, rejected) = (
            _split(turns(value, place, f"column {column!r}"), f"column {column!r}", place)
            for column, value in ((CHOSEN, better), (REJECTED, worse))
        )
        if question != other:
            problem = "chosen and rejected answer different prompts"
            raise BadRow(place, problem, problem, "Mend or drop the row.")
        return question, chosen, rejected
    need(row, prompt, place)
    return conversation(row[prompt], place), _answer(better, CHOSEN, place), _answer(worse, REJECTED, place)


def _spoken(value: Any) -> Any:
    """A text of marked turns (Human:, Assistant:) as messages; anything else as it is."""
    if not isinstance(value, str) or not value.startswith("\n\nHuman:"):
        return value
    _, *marked = _SPEAKERS.split(value)
    return [
        {"role": "user" if who == "Human" else "assistant", "content": text.strip()}
        for who, text in zip(marked[::2], marked[1::2], strict=True)
    ]
