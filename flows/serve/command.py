"""The process of `moslim serve`: its socket, what it says when it is ready, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import re
import shlex
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import typer
import uvicorn

from flows.serve.answers import Backend
from flows.serve.app import Service
from flows.serve.request import Offer
from moslim_core.errors import UserError
from moslim_core.policy.artifact import PolicyCard
from tasks.surroundings.network import bound

KEY = "MOSLIM_SERVE_API_KEY"
# For answers to be ended with a word to their clients.
END_SECONDS = 3
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


# The longest answer that may be asked for where nobody says, in tokens; half of a context that is short.
USUAL_TOKENS = 1024


class Limits(NamedTuple):
    """Answers drawn together, requests that may wait beside them, tokens of an answer (None: as many as is usual)."""

    concurrency: int
    queue: int
    max_tokens: int | None


class Server(uvicorn.Server):
    """Uvicorn's server, which tells its service at once when it is to end, and others when it listens."""

    def __init__(self, service: Service, ready: Callable[[], None] = lambda: None) -> None:
        super().__init__(
            uvicorn.Config(service.app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=END_SECONDS)
        )
        self.service, self.ready = service, ready
        self.loop = asyncio.get_running_loop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.end()
        if sig != signal.SIGINT:
            super().handle_exit(sig, frame)
        elif self.should_exit:
            self.force_exit = True
        else:
            # Not kept to be raised again: Ctrl-C is how this ends.
            self.should_exit = True

    def end(self) -> None:
        """May be called from a signal handler, and from other threads."""
        self.loop.call_soon_threadsafe(self.service.stopping.set)


def run_server(
    directory: Path,
    host: str,
    port: int,
    name: str,
    limits: Limits,
    upstream: tuple[str | None, str | None] | None,
    cache: Path,
    base: str | None = None,
) -> None:
    """Serve the policy in `directory` until Ctrl-C, or (address, model) of the server `upstream` that runs it.

    Raises UserError, before anything is loaded, for what can't be served or where.
    """
    if not re.fullmatch(r"[\w./-]+", name):
        raise UserError(f"--name {name!r}: a model's name here has letters, digits, and . _ - / only.\nGive another.")
    key = _key()
    card = PolicyCard.load(directory)
    if upstream is not None and None in upstream:
        missing, given = ("--upstream-model", "--upstream") if upstream[0] else ("--upstream", "--upstream-model")
        raise UserError(f"{given} is given without {missing}.\nGive both: the server's address, and the policy's name there.")
    listener = _bound(host, port)
    with listener:
        local = _is_loopback(listener)
        if not local and not key:
            typer.echo(f"warning: {host} is open to other machines, and no key is set: export {KEY}=...", err=True)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_serve(_backend(directory, card, limits, upstream, cache, base), card, name, limits, listener, key, local))
        typer.echo("stopped")


def _backend(
    directory: Path, card: PolicyCard, limits: Limits, upstream: tuple[str | None, str | None] | None, cache: Path, base: str | None
) -> Callable[[], Awaitable[Backend]]:
    """What answers, loaded; made in the event loop that it is used in."""
    if upstream is not None:
        from flows.serve.upstream import Upstream, require_address
        from moslim_core.models.loading import load_tokenizer

        require_address(str(upstream[0]))
        # That of the policy, in its folder: what are marks to the model is the same wherever it runs.
        behind, tokenizer = upstream, load_tokenizer(str(directory), str(directory))

        async def thin() -> Backend:
            return Upstream(str(behind[0]), str(behind[1]), card, tokenizer)

        return thin
    from flows.serve.local import LocalModel
    from moslim_core.policy.steerable import SteerablePolicy

    policy = SteerablePolicy.from_pretrained(directory, cache, base=base)

    async def own() -> Backend:
        return LocalModel(policy, limits.concurrency)

    return own


async def _serve(
    make: Callable[[], Awaitable[Backend]], card: PolicyCard, name: str, limits: Limits, bound: socket.socket, key: str, local: bool
) -> None:
    backend = await make()
    try:
        longest = _longest_answer(limits.max_tokens, backend.context)
        offer = Offer(name, card.preferences, min(card.max_new_tokens, longest), longest)
        service = Service(backend, offer, limits.concurrency + limits.queue, key, LOOPBACK if local else None)
        address = _address(bound)
        await Server(service, lambda: typer.echo(_greeting(address, offer, limits, bool(key)))).serve(sockets=[bound])
    finally:
        await backend.close()


def _longest_answer(asked: int | None, context: int) -> int:
    """In tokens. Raises UserError for one that leaves the context no room for a conversation."""
    if asked is not None and asked >= context:
        raise UserError(
            f"--max-tokens {asked}: the model's context has {context} tokens, for a conversation and its answer together.\n"
            f"Give less, say {context // 2}, or leave it out."
        )
    return asked or min(USUAL_TOKENS, context // 2)


def _key() -> str:
    """Raises UserError for one that no client could send."""
    key = os.environ.get(KEY, "")
    if key != key.strip() or not (key.isascii() and key.isprintable()):
        raise UserError(f"the key in {KEY} holds characters that no header can carry.\nSet it to letters, digits and signs.")
    if KEY in os.environ and not key:
        raise UserError(f"{KEY} is set and empty.\nSet it to a key, or unset it to serve without one.")
    return key


def _bound(host: str, port: int) -> socket.socket:
    """Raises UserError where nothing can be bound."""
    try:
        return bound(host, port)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"can't listen on {host}, port {port} ({reason}).\nGive another --port (0: one that is free) or --host.") from error


def _is_loopback(bound: socket.socket) -> bool:
    return ipaddress.ip_address(bound.getsockname()[0]).is_loopback


def _address(bound: socket.socket) -> str:
    """Where a client on this machine finds the server."""
    host, port = bound.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1" if bound.family == socket.AF_INET else "::1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _greeting(address: str, offer: Offer, limits: Limits, key: bool) -> str:
    schema = offer.schema.preferences
    example = {schema[0].name: schema[0].requestable[-1]}
    body: dict[str, Any] = {
        "model": offer.name,
        "messages": [{"role": "user", "content": "How do I keep bread fresh?"}],
        "preferences": example,
    }
    headers = ["-H 'Content-Type: application/json'", *([f'-H "Authorization: Bearer ${KEY}"'] if key else [])]
    levels = [f"  {p.name}: " + ", ".join(f"{level} ({p.label(level)})" for level in p.requestable) for p in schema]
    first, last = offer.models[1], ",".join(f"{p.name}={p.requestable[-1]}" for p in schema[:2])
    return "\n".join(
        [
            f"Serving at {address}/v1 ({limits.concurrency} answers together, {limits.queue} may wait)",
            f"Models: {offer.name}; with levels in the name, such as {first} or {offer.name}:{last}",
            "Preferences, levels by number or word:",
            *levels,
            "Try it:",
            f"  curl {address}/v1/chat/completions {' '.join(headers)} -d {shlex.quote(json.dumps(body))}",
            "Ctrl-C ends it.",
        ]
    )
