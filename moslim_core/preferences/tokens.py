"""Token ids of conversations and texts in which content is text: only the chat template's own marks are special tokens. (ours)

A tokenizer reads `<|im_end|>` as the end of a turn wherever it stands. So content is cut inside each such string before the template
renders it, and the pieces between the cuts, in which no mark is whole, are tokenised one after the other. Text without such strings
is not cut: it has the ids that it always had. Whatever the tokenizer's normalisation or the template make of content, the special ids
are compared with those of the same conversation without any character that a mark could begin or end with.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from moslim_core.errors import UserError
from moslim_core.json_text import is_text
from moslim_core.preferences.prompting import Message, as_said, chat_text

# Tokens that were added to be marks, though not as special ones: <think>, </tool_call>, [INST]. Runs of spaces and words are no marks.
_MARK = re.compile(r"<.+>|\[.+\]", re.DOTALL)
# What SentencePiece writes a character with that it has no word for: text, even where it was added as special.
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# Private-use characters; one that the text at hand does not have shows where it is cut.
_CUTS = range(0xF0000, 0xFFFFE)


class _Marks:
    """The special tokens of a tokenizer, and what text can be mistaken for them."""

    def __init__(self, tokenizer: Any) -> None:
        self.size = len(tokenizer)
        added = getattr(tokenizer, "added_tokens_decoder", {})
        marks = {number: str(token.content) for number, token in added.items() if token.special or _MARK.fullmatch(token.content)}
        marks |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
        marks = {number: mark for number, mark in marks.items() if not _BYTE.fullmatch(mark)}
        # What the vocabulary has no word for becomes "unknown", which opens and ends nothing; some call the end of a text so, too.
        self.ids = frozenset(marks) - ({tokenizer.unk_token_id} - {tokenizer.eos_token_id})
        strings = sorted(set(filter(None, marks.values())), key=len, reverse=True)
        # Every place where one begins, also within another.
        self.beginning = re.compile(f"(?={'|'.join(map(re.escape, strings))})(.)", re.DOTALL) if strings else None
        # Some begin with a space as SentencePiece writes it; it says nothing of what follows.
        bare = [mark.strip(" \t\n\u2581") for mark in strings]
        self.ends = {end for mark in bare for end in (*mark[:1], *mark[-1:])}
        self.harmless_character = next(c for c in ".,_0\u00b7" if c not in self.ends)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self.normalise = backend.normalizer.normalize_str if backend is not None and backend.normalizer is not None else str
        self.known: dict[str, bool] = {}

    def is_end(self, character: str) -> bool:
        """Whether a mark could begin or end with the character, as it is or as the tokenizer normalises it."""
        if character not in self.known:
            forms = character, unicodedata.normalize("NFKC", character), self.normalise(character)
            self.known[character] = any(end in form for form in forms for end in self.ends)
        return self.known[character]

    def harmless(self, text: str) -> str:
        """`text` without any character that a mark could begin or end with."""
        if not any(map(self.is_end, set(text))):
            return text
        return "".join(self.harmless_character if self.is_end(c) else c for c in text)

    def cut(self, text: str, cut: str) -> str:
        """`text` cut behind the first character of every mark."""
        return self.beginning.sub(rf"\1{cut}", text) if self.beginning else text

    def cut_everywhere(self, text: str, cut: str) -> str:
        """`text` cut around every character that a mark could begin or end with."""
        return "".join(f"{cut}{c}{cut}" if self.is_end(c) else c for c in text)

    def within(self, ids: Sequence[int]) -> list[int]:
        return [number for number in ids if number in self.ids]


def _plain(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text as it is, marks and all."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _joined(tokenizer: Any, pieces: Sequence[str]) -> list[int]:
    """Ids of the pieces of one text."""
    ids = _plain(tokenizer, pieces[0])
    for piece in filter(None, pieces[1:]):
        # SentencePiece puts a space before a text: a line break is put before the piece in its place, and its ids are taken off.
        lead, led = _plain(tokenizer, "\n"), _plain(tokenizer, f"\n{piece}")
        ids += led[len(lead) :] if led[: len(lead)] == lead else _plain(tokenizer, piece)
    return ids


_MARKS: WeakKeyDictionary[Any, _Marks] = WeakKeyDictionary()


def _marks(tokenizer: Any) -> _Marks:
    known = _MARKS.get(tokenizer)
    if known is None or known.size != len(tokenizer):
        known = _MARKS[tokenizer] = _Marks(tokenizer)
    return known


# Writes a text from its contents, each changed in the same way.
_Write = Callable[[Callable[[str], str]], str]


def _as_text(tokenizer: Any, contents: Sequence[str], write: _Write) -> list[int]:
    """Ids of what `write` makes of `contents`, none of which gives a special token."""
    marks = _marks(tokenizer)
    cut = next(chr(code) for code in _CUTS if all(chr(code) not in content for content in contents))
    own = marks.within(_plain(tokenizer, write(marks.harmless)))
    for change in (marks.cut, marks.cut_everywhere):
        ids = _joined(tokenizer, write(partial(change, cut=cut)).split(cut))
        if marks.within(ids) == own:
            return ids
    # A mark of a single character, or a template that takes content apart: the character is not worth a forged turn.
    return _plain(tokenizer, write(marks.harmless))


def _each(tokenizer: Any, texts: Sequence[tuple[Sequence[str], _Write]]) -> list[list[int]]:
    """Ids of each (contents, how they are written); those that can hold no mark are tokenised together, as they are."""
    for contents, _ in texts:
        _require_text(contents)
    marks = _marks(tokenizer)
    plain = [n for n, (contents, _) in enumerate(texts) if all(marks.harmless(c) == c for c in contents)]
    plain_ids: dict[int, list[int]] = {}
    if plain:
        written = [texts[n][1](str) for n in plain]
        plain_ids = dict(zip(plain, tokenizer(written, add_special_tokens=False)["input_ids"], strict=True))
    return [plain_ids[n] if n in plain_ids else _as_text(tokenizer, *texts[n]) for n in range(len(texts))]


def _require_text(contents: Sequence[str]) -> None:
    for content in contents:
        if not is_text(content):
            raise UserError(
                f"a text has half a character (a lone surrogate), which no tokenizer reads: {content[:60]!a}\n"
                "Put U+FFFD in its place: moslim_core.json_text.well_formed(text) does."
            )


def text_tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, none of them special. Raises UserError for half a character."""
    return _each(tokenizer, [([text], partial(_changed, text)) for text in texts])


def prompt_tokens(tokenizer: Any, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
    """Token ids of each conversation up to where the answer begins.

    Raises UserError for a role that there is not, half a character, and where the chat template refuses a conversation.
    """
    return _each(tokenizer, [_written(tokenizer, conversation) for conversation in conversations])


def unmarked(tokenizer: Any, conversation: Sequence[Message]) -> list[Message]:
    """The conversation with a space in every special token that its contents spell, for a server that reads such tokens in content too.

    Where a space does not help, characters that a mark could begin or end with are replaced. All else is as it was. Raises UserError
    as `prompt_tokens`.
    """
    contents, write = _written(tokenizer, conversation)
    _require_text(contents)
    marks = _marks(tokenizer)
    own = marks.within(_plain(tokenizer, write(marks.harmless)))
    changes = (partial(marks.cut, cut=" "), partial(marks.cut_everywhere, cut=" "))
    change = next((change for change in changes if marks.within(_plain(tokenizer, write(change))) == own), marks.harmless)
    return [{**message, "content": change(message["content"])} for message in as_said(conversation)]


def answered_tokens(tokenizer: Any, prompt: Sequence[Message], answer: str) -> tuple[list[int], int]:
    """(token ids of a prompt and its answer with the end of its turn, how many of them are the prompt's). Raises as `prompt_tokens`.

    The answer begins where the ids leave those of the prompt alone, as in TRL's supervised trainers.
    """
    whole = [*prompt, {"role": "assistant", "content": answer}]
    ids, prompt_ids = _each(tokenizer, [_written(tokenizer, whole, answered=True), _written(tokenizer, prompt)])
    return ids, next((n for n, (a, b) in enumerate(zip(ids, prompt_ids, strict=False)) if a != b), min(len(ids), len(prompt_ids)))


def _changed(text: str, change: Callable[[str], str]) -> str:
    return change(text)


def _written(tokenizer: Any, conversation: Sequence[Message], answered: bool = False) -> tuple[list[str], _Write]:
    messages = as_said(conversation)

    def write(change: Callable[[str], str]) -> str:
        return chat_text(tokenizer, [{**m, "content": change(m["content"])} for m in messages], answered)

    return [m["content"] for m in messages], write


def beginning_tokens(tokenizer: Any) -> list[int]:
    """What the tokenizer itself puts before a text: the token that a text begins with, where there is one."""
    alone = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a")["input_ids"]
    place = next((n for n in range(len(whole)) if whole[n : n + len(alone)] == alone), 0)
    return whole[:place]
