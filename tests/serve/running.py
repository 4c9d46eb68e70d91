"""A server in a thread of the test's process, and the tiny policy behind it."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.serve.answers import Backend
from flows.serve.app import Service
from flows.serve.command import LOOPBACK, Server
from flows.serve.request import Offer
from moslim_core import models
from moslim_core.models.identity import identify
from moslim_core.policy.artifact import PolicyCard
from moslim_core.policy.steerable import SteerablePolicy
from moslim_core.preferences import PreferenceSchema

SCHEMA = PreferenceSchema.model_validate(
    [{"name": "warmth", "levels": ["cold", "neutral", "very warm"]}, {"name": "length", "levels": ["short", "long"]}]
)


def tiny_policy(chat: Path, cache: Path) -> SteerablePolicy:
    """A random model; what it says depends on what is asked for, as on every other word."""
    model, tokenizer = models.load_chat_model(str(chat), cache, "float32", "cpu")
    card = {
        "base": identify(str(chat), cache).id.model_dump(), "preferences": SCHEMA.model_dump(), "placement": "user_suffix",
        "optimiser": "rloo", "steps": 1, "max_new_tokens": 16, "mapping": {}, "mapping_state": {}, "held_out": [],
    }  # fmt: skip
    return SteerablePolicy(model, tokenizer, PolicyCard.model_validate(card))


class Running:
    """`service` is touched in its own thread only, but for reading numbers."""

    def __init__(self, server: Server, bound: socket.socket) -> None:
        self.server, self.service = server, server.service
        self.url = f"http://127.0.0.1:{bound.getsockname()[1]}"

    def stop(self) -> None:
        """As Ctrl-C does."""
        self.server.handle_exit(signal.SIGINT, None)


@contextmanager
def serving(make: Callable[[], Backend], most: int = 200, key: str = "", max_tokens: int = 400) -> Iterator[Running]:
    """`make` is called in the server's event loop."""
    ready = threading.Event()
    found: list[Running] = []

    async def run() -> None:
        backend = make()
        server = Server(Service(backend, Offer("moslim", SCHEMA, 16, max_tokens), most, key, LOOPBACK), ready.set)
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            found.append(Running(server, bound))
            try:
                await server.serve(sockets=[bound])
            finally:
                await backend.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(20)
    try:
        yield found[0]
    finally:
        found[0].stop()
        thread.join(20)
        assert not thread.is_alive()
