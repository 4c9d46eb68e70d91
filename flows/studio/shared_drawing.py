"""A model that answers all pages at once: their answers are drawn together, each heard by the page that asked. (ours)"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from flows.studio.session import Drawn, Targets
from moslim_core.errors import UserError
from moslim_core.models import end_tokens
from moslim_core.policy import open_batch
from moslim_core.policy.answering import Answering, Lost
from moslim_core.policy.generation import Answer
from moslim_core.policy.reader import Reader
from moslim_core.policy.steerable import SteerablePolicy
from moslim_core.policy.streamed_text import Pieces
from moslim_core.preferences import Message

# So many answers are drawn at once; others wait for their turn.
PLACES = 16

_Heard = open_batch.Drawn | Lost


class Voice:
    """One model, for any number of event loops."""

    def __init__(self, speaker: SteerablePolicy) -> None:
        self.speaker = speaker
        ends = end_tokens(speaker.model, speaker.tokenizer)
        self._read = Reader(speaker.tokenizer, ends)
        self._keys = itertools.count()
        self._ears: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Queue[_Heard]]] = {}
        # One thread, as a tokenizer is not for several at once.
        self._reading = ThreadPoolExecutor(1, "studio-reading")
        batch = open_batch.open_batch(speaker.model, ends, speaker.tokenizer.pad_token_id)
        self._answering = Answering(batch, PLACES, self._hear)

    async def answer(self, messages: Sequence[Message], targets: Targets, drawn: Drawn) -> AsyncIterator[str | Answer]:
        """The pieces of an answer as they are drawn, then the whole of it. Whoever stops listening stops the drawing.

        Raises UserError where it can't be asked, or the model fails.
        """
        loop = asyncio.get_running_loop()
        ask = await loop.run_in_executor(self._reading, self.speaker.ask, list(messages), targets, *drawn)
        key, pieces, heard = next(self._keys), Pieces(self._read), asyncio.Queue[_Heard]()
        self._ears[key] = loop, heard
        self._answering.ask(key, ask)
        try:
            over = False
            while not over:
                event = await heard.get()
                if isinstance(event, Lost):
                    raise UserError(f"the model could not answer: {event.reason}")
                over = event.over
                if text := pieces.add(event.token) + (pieces.end() if over else ""):
                    yield text
            yield Answer(pieces.text, pieces.tokens, truncated=not pieces.ended)
        finally:
            del self._ears[key]
            self._answering.drop(key)

    @property
    def idle(self) -> bool:
        return not self._ears

    def close(self) -> None:
        """End its threads."""
        self._reading.shutdown(wait=False, cancel_futures=True)
        self._answering.close()

    def _hear(self, told: list[_Heard]) -> None:
        """Called from the thread that draws; a page's loop may have ended."""
        for event in told:
            if event.key in self._ears:
                loop, heard = self._ears[event.key]
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(heard.put_nowait, event)
