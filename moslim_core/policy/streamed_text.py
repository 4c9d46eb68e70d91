"""The text of an answer while its tokens come: pieces that are never taken back, and together are the whole answer. (ours)"""

from __future__ import annotations

from moslim_core.policy.reader import Reader
from moslim_core.preferences import INSTRUCTION_MARKS

# What a character looks like of which some bytes are missing.
INCOMPLETE = "\ufffd"
# The whole text is read anew for every token of a short answer, and for more and more of them at once as it grows.
READ_ANEW = 256


class Pieces:
    """Tokens in, text out, which ends on whole characters and holds neither thoughts nor marks, as `Reader` has it."""

    def __init__(self, read: Reader) -> None:
        self.read = read
        self.ids: list[int] = []
        self.told = ""
        self.unread = 0
        begins = [*INSTRUCTION_MARKS, *(thought.begin for thought in read.thoughts)]
        self.beginnings = {begin[:size] for begin in begins for size in range(1, len(begin))}

    @property
    def ended(self) -> bool:
        """Whether the answer's last token ends a turn: else it was cut, or goes on."""
        return bool(self.ids) and self.ids[-1] in self.read.ends

    @property
    def tokens(self) -> int:
        """Tokens of the answer, without the one that ends it."""
        return len(self.ids) - self.ended

    def add(self, token: int) -> str:
        """What can be told more with one more token, '' where that is nothing yet."""
        self.ids.append(token)
        self.unread += 1
        if self.unread <= len(self.ids) // READ_ANEW:
            return ""
        self.unread = 0
        # White space is told with what follows it: an answer has none at its end.
        return self._more(self._settled(self.read(self.ids).lstrip()).rstrip(INCOMPLETE).rstrip())

    def keep(self, token: int) -> str:
        """One token more, of which nothing is told before the end: ''."""
        self.ids.append(token)
        return ""

    def end(self) -> str:
        """What is left to tell."""
        return self._more(self.text)

    @property
    def text(self) -> str:
        """All of the answer so far."""
        return self.read(self.ids).strip()

    def _settled(self, text: str) -> str:
        """`text` without the beginning of a mark at its end, which may begin a thought, or what repeats the instruction."""
        held = max((len(begin) for begin in self.beginnings if text.endswith(begin)), default=0)
        return text[: len(text) - held]

    def _more(self, text: str) -> str:
        if not text.startswith(self.told):
            return ""
        more, self.told = text[len(self.told) :], text
        return more
