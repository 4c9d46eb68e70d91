"""What counts as said in an answer. (ours)"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from moslim_core.models.reasoning import without
from moslim_core.models.templates import begun_thoughts, thoughts
from moslim_core.preferences import INSTRUCTION_MARKS

_MARK = re.compile("|".join(map(re.escape, INSTRUCTION_MARKS)))


class Said(NamedTuple):
    """The text of an answer up to the first of its instruction's marks; `whole`: it says something, ends by itself and has no mark."""

    text: str
    whole: bool
    marked: bool


class Reader:
    """Token ids of an answer -> what was said: without end tokens, special tokens and thoughts, also one that was cut. Made once.

    A policy may repeat its instruction: an answer goes as far as the first of the instruction's marks.
    """

    def __init__(self, tokenizer: Any, ends: list[int]) -> None:
        self.tokenizer, self.ends = tokenizer, frozenset(ends)
        self.thoughts = thoughts(tokenizer)
        self.begun = begun_thoughts(tokenizer, self.thoughts)

    def __call__(self, ids: list[int]) -> str:
        return self.said(ids).text

    def said(self, ids: list[int]) -> Said:
        """All that training asks about an answer, read once."""
        text, *repeated = _MARK.split(self._without_thoughts(ids), maxsplit=1)
        ended = bool(ids) and ids[-1] in self.ends
        return Said(text, ended and bool(text.strip()) and not repeated, bool(repeated))

    def _without_thoughts(self, ids: list[int]) -> str:
        said = ids[:-1] if ids and ids[-1] in self.ends else ids
        if not self.thoughts:
            return self.tokenizer.decode(said, skip_special_tokens=True)
        text = self.tokenizer.decode(said, skip_special_tokens=False)
        for thought in self.thoughts:
            text = without(text, thought, thought in self.begun)
        for token in self.tokenizer.all_special_tokens:
            text = text.replace(token, "")
        return text
