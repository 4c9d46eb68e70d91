"""What counts as said in an answer. (ours)"""

from __future__ import annotations

import re
from typing import Any

from moslim_core.models.reasoning import without
from moslim_core.models.templates import begun_thoughts, thoughts
from moslim_core.preferences import INSTRUCTION_MARKS

_MARK = re.compile("|".join(map(re.escape, INSTRUCTION_MARKS)))


class Reader:
    """Token ids of an answer -> what was said: without end tokens, special tokens and thoughts, also one that was cut. Made once.

    A policy may repeat its instruction: an answer goes as far as the first of the instruction's marks.
    """

    def __init__(self, tokenizer: Any, ends: list[int]) -> None:
        self.tokenizer, self.ends = tokenizer, frozenset(ends)
        self.thoughts = thoughts(tokenizer)
        self.begun = begun_thoughts(tokenizer, self.thoughts)

    def __call__(self, ids: list[int]) -> str:
        return _MARK.split(self._without_thoughts(ids), 1)[0]

    def is_whole(self, ids: list[int]) -> bool:
        """Whether an answer says something, ends by itself, and has none of its instruction's marks."""
        if not ids or ids[-1] not in self.ends:
            return False
        said = self._without_thoughts(ids)
        return bool(said.strip()) and not _MARK.search(said)

    def repeats(self, ids: list[int], clauses: re.Pattern[str]) -> bool:
        """Whether an answer repeats its instruction: its marks, or what `clauses` finds."""
        said = self._without_thoughts(ids)
        return bool(_MARK.search(said) or clauses.search(said))

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
