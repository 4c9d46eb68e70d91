"""A thread that draws the answers of all who ask, together: new ones join as others end, and nobody waits for a batch to fill. (ours)"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

from moslim_core.policy.generation import BATCH_TOKENS
from moslim_core.policy.open_batch import Alone, Ask, Drawn, OpenBatch

log = logging.getLogger(__name__)


class Lost(NamedTuple):
    """The answer `key` will not be drawn to its end."""

    key: int
    reason: str


# Gets what happened since the last call, in order. It is called from the thread, and must not take long.
Tell = Callable[[list[Drawn | Lost]], None]


class Answering:
    """At most `places` answers are drawn at once; others wait in the order in which they came."""

    def __init__(self, batch: OpenBatch | Alone, places: int, tell: Tell) -> None:
        self.batch, self.places, self.tell = batch, places, tell
        self._waiting: dict[int, Ask] = {}
        self._going: dict[int, Ask] = {}
        self._dropped: set[int] = set()
        self._closed = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="answering", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def going(self) -> int:
        return len(self._going)

    def ask(self, key: int, ask: Ask) -> None:
        """Have `ask` answered; its tokens are told under `key`, which no other has."""
        with self._news:
            self._waiting[key] = ask
            self._news.notify()

    def drop(self, key: int) -> None:
        """Nobody waits for `key` any more: its place is free from the next token on. Answered ones are passed over."""
        with self._news:
            if self._waiting.pop(key, None) is None and key in self._going:
                self._dropped.add(key)

    def close(self, seconds: float = 2.0) -> None:
        """End the thread, after the token that it is at; wait for it so long."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join(seconds)

    def _work(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._closed or self._waiting or self._going)
                if self._closed:
                    return
                dropped, self._dropped = self._dropped, set()
                for key in dropped:
                    self._going.pop(key, None)
                joining = self._admitted()
                self._going |= joining
            told = self._step(dropped, joining)
            with self._news:
                for event in told:
                    if isinstance(event, Lost) or event.over:
                        self._going.pop(event.key, None)
            self.tell(told)

    def _admitted(self) -> dict[int, Ask]:
        """Who joins now, first come, first served: as many as there are places, and as fit into a batch that memory has room for."""
        admitted: dict[int, Ask] = {}
        longest = max(map(_length, self._going.values()), default=0)
        for key, ask in list(self._waiting.items()):
            count = len(self._going) + len(admitted) + 1
            longest = max(longest, _length(ask))
            if count > self.places or (count > 1 and count * longest > BATCH_TOKENS):
                break
            admitted[key] = self._waiting.pop(key)
        return admitted

    def _step(self, dropped: set[int], joining: dict[int, Ask]) -> list[Drawn | Lost]:
        try:
            self.batch.drop(dropped)
            self.batch.join(joining)
            return [*self.batch.draw()]
        except Exception as error:  # whatever a model raises: those who wait are told, and the next ones are served
            log.exception("answers were lost")
            self.batch.clear()
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            return [Lost(key, reason) for key in self._going]


def _length(ask: Ask) -> int:
    return len(ask.prompt) + ask.max_new_tokens
