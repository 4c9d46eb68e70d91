"""Answers of the model itself, drawn together for all who ask."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor

from flows.serve.answers import Piece, Usage
from flows.serve.errors import ApiError
from flows.serve.request import Asked
from moslim_core.errors import UserError
from moslim_core.models import context, end_tokens
from moslim_core.policy.answering import Answering, Lost
from moslim_core.policy.open_batch import Ask, Drawn, open_batch
from moslim_core.policy.reader import Reader
from moslim_core.policy.steerable import SteerablePolicy, TooLong
from moslim_core.policy.streamed_text import Pieces


class LocalModel:
    """A policy in this process. Made and used in one event loop."""

    def __init__(self, policy: SteerablePolicy, places: int) -> None:
        self.policy = policy
        ends = end_tokens(policy.model, policy.tokenizer)
        self._read = Reader(policy.tokenizer, ends)
        self._keys = itertools.count()
        self._told: dict[int, asyncio.Queue[Drawn | Lost]] = {}
        self._loop = asyncio.get_running_loop()
        # One thread: a long prompt holds up others that come, and none that is answered.
        self._reading = ThreadPoolExecutor(1, "reading")
        batch = open_batch(policy.model, ends, policy.tokenizer.pad_token_id)
        self._answering = Answering(batch, places, self._hear)

    @property
    def waiting(self) -> int:
        return self._answering.waiting

    @property
    def context(self) -> int:
        return context(self.policy.model.config)

    def _hear(self, told: list[Drawn | Lost]) -> None:
        """Called from the thread that draws; at the end of the process the loop may be gone before it."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._tell, told)

    def _tell(self, told: list[Drawn | Lost]) -> None:
        for event in told:
            if event.key in self._told:
                self._told[event.key].put_nowait(event)

    def _ask(self, request: Asked) -> Ask:
        try:
            return self.policy.ask(request.messages, request.targets, request.temperature, request.max_tokens, request.seed)
        except TooLong as error:
            raise ApiError(400, str(error), "messages", "context_length_exceeded") from None
        except UserError as error:
            raise ApiError(400, str(error), "messages") from None

    async def answer(self, request: Asked) -> AsyncGenerator[Piece, None]:
        """The answer's pieces as they are drawn. Raises ApiError: 400 for a request that can't be, 500 where the model fails."""
        ask = await self._loop.run_in_executor(self._reading, self._ask, request)
        key, pieces = next(self._keys), Pieces(self._read)
        queue = self._told[key] = asyncio.Queue()
        self._answering.ask(key, ask)
        try:
            over = False
            while not over:
                # What came meanwhile is told at once.
                events = [await queue.get()]
                while not queue.empty():
                    events.append(queue.get_nowait())
                text = ""
                for event in events:
                    if isinstance(event, Lost):
                        raise ApiError(500, f"the model could not answer: {event.reason}", code="model_failed")
                    text += pieces.add(event.token) if request.stream else pieces.keep(event.token)
                    over = event.over
                if text and not over:
                    yield Piece(text)
            usage = Usage(len(ask.prompt), pieces.tokens)
            yield Piece(text + pieces.end(), "stop" if pieces.ended else "length", usage)
        finally:
            del self._told[key]
            self._answering.drop(key)

    async def close(self) -> None:
        self._reading.shutdown(wait=False, cancel_futures=True)
        self._answering.close()
