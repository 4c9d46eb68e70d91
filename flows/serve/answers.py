"""What the HTTP side and those that answer have between them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Literal, NamedTuple, Protocol

from flows.serve.request import Asked


class Usage(NamedTuple):
    """Tokens of a prompt with its instruction, and of its answer, as OpenAI's clients count them."""

    prompt_tokens: int
    completion_tokens: int


class Piece(NamedTuple):
    """More text of an answer. The last piece says why it ends, and what it took where that is known."""

    text: str
    finish: Literal["stop", "length"] | None = None
    usage: Usage | None = None


class Backend(Protocol):
    """Who answers. Whoever stops reading an answer closes it, and then no work is done on it any more."""

    def answer(self, request: Asked) -> AsyncGenerator[Piece, None]:
        """In pieces where `request.stream`, else in one. Raises ApiError."""

    @property
    def waiting(self) -> int:
        """Requests whose answer has not begun."""

    @property
    def context(self) -> int:
        """Tokens that a conversation and its answer may have together; 10^9 where nobody here knows."""

    async def close(self) -> None:
        """Give up what is being answered, and free what is held."""
