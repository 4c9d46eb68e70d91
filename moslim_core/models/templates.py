"""What a chat template decides for a whole run: no thoughts, no date of today, and where a turn ends. (ours)

A template's options are set in the template itself, once, when its tokenizer is loaded: trainers, evaluation, chat and whoever serves the
saved tokenizer then write the same text.
"""

from __future__ import annotations

import os
import re
from functools import partial
from typing import Any

from moslim_core.errors import UserError
from moslim_core.models.reasoning import Thought, begun, thoughts_of

# Templates that print the date get this one, that of the templates' own examples: a resumed run reads what it read before.
DATE = {"%d": "26", "%-d": "26", "%b": "Jul", "%B": "July", "%m": "07", "%-m": "7", "%Y": "2024", "%y": "24",
        "%A": "Friday", "%a": "Fri", "%H": "12", "%I": "12", "%M": "00", "%S": "00", "%p": "PM", "%j": "208", "%Z": "UTC", "%z": "+0000",
        "%F": "2024-07-26", "%D": "07/26/24", "%x": "07/26/24", "%X": "12:00:00", "%T": "12:00:00"}  # fmt: skip
_FORMATTED = "format" + "".join(f" | replace('{directive}', '{value}')" for directive, value in DATE.items())
# {name that a template uses: what sets it for good}.
SETTINGS = {
    "enable_thinking": "{% set enable_thinking = false %}",
    "thinking": "{% set thinking = false %}",
    "date_string": "{% set date_string = '26 Jul 2024' %}",
    "strftime_now": "{% macro strftime_now(format) %}{{ " + _FORMATTED + " }}{% endmacro %}",
}
# The first line break after a block is the block's, not the text's: this keeps what the template begins with.
_REST = "{{ '' }}"


_ASKED, _ANSWERED = "moslim asks", "moslim answers"


def settle(tokenizer: Any, name: str) -> None:
    """Leave the tokenizer one chat template, with its options set for good; again it changes nothing.

    Raises UserError where there is none, or several by name and none is the default.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        if "default" not in template:
            raise UserError(
                f"model {name!r} has chat templates named {', '.join(sorted(template)) or 'nothing'}, and none named default.\n"
                "Name the one to use default in its tokenizer_config.json."
            )
        template = template["default"]
    if not isinstance(template, str) or not template:
        raise UserError(f"model {name!r} has no chat template.\nGive a chat (instruct) model.")
    body = template
    for setting in SETTINGS.values():
        body = body.removeprefix(setting)
    body = body.removeprefix(_REST)
    chosen = "".join(setting for option, setting in SETTINGS.items() if re.search(rf"(?<![.\w'\"]){option}(?![\w'\"])", body))
    tokenizer.chat_template = f"{chosen}{_REST}{body}" if chosen else body


def _written(tokenizer: Any, turns: list[dict[str, str]], answered: bool) -> str:
    """Turns as the template writes them: up to where an answer begins, or with the last turn's end. Raises UserError if it can't."""
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=not answered)
    except Exception as error:  # a template is a program of the model's
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{_whose(tokenizer)} can't write a conversation: {first}\nGive a model whose chat template works.") from error


def _rendered(tokenizer: Any, answered: bool) -> str:
    """A short conversation as the template writes it: up to where the answer begins, or with an answer. Raises as `_written`."""
    turns = [{"role": "user", "content": _ASKED}] + [{"role": "assistant", "content": _ANSWERED}] * answered
    return _written(tokenizer, turns, answered)


def _whose(tokenizer: Any) -> str:
    """The chat template by its file, or by its model where it stands in another file."""
    file = os.path.join(tokenizer.name_or_path, "chat_template.jinja")
    return f"the chat template {file}" if os.path.isfile(file) else f"the chat template of {tokenizer.name_or_path}"


def require_conversation(tokenizer: Any) -> None:
    """Raises UserError where the template can't write a question and its answer, or leaves one of them out."""
    text = _rendered(tokenizer, answered=True)
    if not (_ASKED in text and _ANSWERED in text and _ASKED in _rendered(tokenizer, answered=False)):
        raise UserError(f"{_whose(tokenizer)} leaves out what was said.\nGive one that writes every message.")


def example_ids(tokenizer: Any) -> list[int]:
    """Token ids of a short conversation: those of the template's own marks among them."""
    ids: list[int] = tokenizer(_rendered(tokenizer, answered=True), add_special_tokens=False)["input_ids"]
    return ids


def turn_end(tokenizer: Any) -> int | None:
    """The token that the template writes after an answer; None where it writes plain text or nothing there."""
    after = _rendered(tokenizer, answered=True).rpartition(_ANSWERED)[2].lstrip()
    marks = {str(token): number for number, token in tokenizer.added_tokens_decoder.items()} | {
        token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.all_special_tokens
    }
    leading = [mark for mark in marks if mark.strip() and after.startswith(mark)]
    return marks[max(leading, key=len)] if leading else None


def thoughts(tokenizer: Any) -> tuple[Thought, ...]:
    """How the model marks thoughts, by its template and its vocabulary; () where it is no reasoning model. Raises as `thoughts_of`."""
    added = (str(token) for token in tokenizer.added_tokens_decoder.values())
    return thoughts_of(tokenizer.chat_template, added, partial(_written, tokenizer), _whose(tokenizer))


def begun_thoughts(tokenizer: Any, known: tuple[Thought, ...]) -> set[Thought]:
    """Of a tokenizer's `thoughts` those that the template begins itself, so that an answer holds their end only."""
    return begun(known, _rendered(tokenizer, answered=False)) if known else set()
