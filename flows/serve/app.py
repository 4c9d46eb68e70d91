"""The HTTP side: who may ask, how many at once, and answers as OpenAI's clients read them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import math
import time
import uuid
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from flows.serve.answers import Backend, Piece
from flows.serve.errors import ApiError, as_json
from flows.serve.metrics import Metrics
from flows.serve.request import Asked, Offer, levels_in_name, read

log = logging.getLogger(__name__)

MOST_BYTES = 2**20
MOST_READ = 2**24
# For a request to arrive in.
BODY_SECONDS = 30.0
GONE = "499"
SSE = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Service:
    """Everything that answers requests; `most` of them may be answered or wait at once.

    `key`: what clients have to show, '' for nothing; `hosts`: names under which it may be asked, None for any.
    """

    def __init__(self, backend: Backend, offer: Offer, most: int, key: str = "", hosts: frozenset[str] | None = None) -> None:
        self.backend, self.offer, self.most = backend, offer, most
        self.going = 0
        self.stopping = asyncio.Event()
        self.metrics = Metrics(lambda: self.going, lambda: backend.waiting)
        self.created = int(time.time())
        routes = [
            Route("/v1/chat/completions", _Completions(self), methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/v1/models/{model:path}", self._model),
            Route("/metrics", self._metrics),
            Route("/health", self._health),
        ]
        app = Starlette(routes=routes, exception_handlers={ApiError: _refused, HTTPException: _not_found, Exception: _failed})
        self.app: ASGIApp = _Guard(app, key, hosts)

    async def _health(self, request: Request) -> Response:
        return as_json({"status": "ok"})

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _models(self, request: Request) -> Response:
        return as_json({"object": "list", "data": [self._entry(name) for name in self.offer.models]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["model"]
        levels_in_name(name, self.offer)
        return as_json(self._entry(name))

    def _entry(self, name: str) -> dict[str, Any]:
        entry = {"id": name, "object": "model", "created": self.created, "owned_by": "moslim"}
        levels = {p.name: {str(level): p.label(level) for level in p.requestable} for p in self.offer.schema.preferences}
        return {**entry, "preferences": levels} if name == self.offer.name else entry

    def pause(self) -> int:
        """Seconds after which somebody who was turned away may find a place: about as long as an answer takes, by those so far."""
        seconds = {sample.name: sample.value for metric in self.metrics.seconds.collect() for sample in metric.samples}
        count = seconds.get("moslim_request_seconds_count", 0)
        return min(60, max(1, math.ceil(seconds["moslim_request_seconds_sum"] / count))) if count else 1


class _Guard:
    """Lets in who shows the key. On loopback only under loopback's names: a page elsewhere may name its own host so that it leads here."""

    def __init__(self, app: ASGIApp, key: str, hosts: frozenset[str] | None) -> None:
        self.app, self.hosts = app, hosts
        self.wanted = _digest(key.encode()) if key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refusal.response if refusal else self.app)(scope, receive, send)

    def _refusal(self, request: Request) -> ApiError | None:
        if self.hosts is not None and _host(request) not in self.hosts:
            return ApiError(403, "this server is asked on loopback only: use 127.0.0.1 or localhost", code="unknown_host")
        if self.wanted is None or request.url.path == "/health":
            return None
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        # As digests: comparing takes as long for any length.
        if scheme.lower() != "bearer" or not hmac.compare_digest(_digest(shown.strip().encode("utf-8", "replace")), self.wanted):
            return ApiError(
                401, "no valid key: send 'Authorization: Bearer KEY'", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"}
            )
        return None


def _host(request: Request) -> str:
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return ApiError(error.status_code, f"{request.method} {request.url.path[:100]}: {error.detail}", headers=error.headers).response


async def _failed(request: Request, error: Exception) -> Response:
    return ApiError(500, "the server failed at this request; its log says why").response


class _Completions:
    """POST /v1/chat/completions. A client that goes away ends the work on its answer, and so does the server's own end."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, request = self.service, Request(scope, receive)
        start = time.monotonic()
        reply = _Reply(scope, receive, send)
        status = "500"
        try:
            chat_request = read(await _body(request), service.offer)
            if service.stopping.is_set():
                raise _stopping()
            if service.going >= service.most:
                pause = {"Retry-After": str(service.pause())}
                raise ApiError(429, f"{service.most} requests are answered or wait already: ask again later", code="busy", headers=pause)
            service.going += 1
            try:
                status = await self._unless_gone(request, self._answer(chat_request, reply, start))
            finally:
                service.going -= 1
        except ClientDisconnect:
            status = GONE
        except ApiError as error:
            status = str(error.status)
            await reply.refuse(error)
        except Exception:
            log.exception("a request failed")
            await reply.refuse(ApiError(500, "the server failed at this request; its log says why"))
        finally:
            service.metrics.requests.labels(status).inc()

    async def _unless_gone(self, request: Request, answer: Coroutine[Any, Any, None]) -> str:
        """The status that the answer comes to, if its client and this server stay so long."""
        work = asyncio.ensure_future(answer)
        gone = asyncio.ensure_future(_gone(request))
        stop = asyncio.ensure_future(self.service.stopping.wait())
        try:
            await asyncio.wait({work, gone, stop}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                return "200"
            if gone.done():
                return GONE
            raise _stopping()
        finally:
            for task in (work, gone, stop):
                task.cancel()
            await asyncio.gather(work, gone, stop, return_exceptions=True)

    async def _answer(self, request: Asked, reply: _Reply, start: float) -> None:
        metrics = self.service.metrics
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": request.model}
        async with aclosing(self.service.backend.answer(request)) as pieces:
            # Before it: a refusal has a status of its own, which a stream that has begun can't have any more.
            piece = await anext(pieces)
            if request.stream:
                metrics.first_seconds.observe(time.monotonic() - start)
                await reply.event(_chunk(head, {"role": "assistant", "content": ""}))
                while not piece.finish:
                    await reply.event(_chunk(head, {"content": piece.text}))
                    piece = await anext(pieces)
                if piece.text:
                    await reply.event(_chunk(head, {"content": piece.text}))
                await reply.event(_chunk(head, {}, piece.finish))
                if request.include_usage:
                    await reply.event({**_chunk(head, {}), "choices": [], "usage": _usage(piece)})
                await reply.end()
            else:
                await reply.whole(_completion(head, piece))
        if piece.usage:
            metrics.prompt_tokens.inc(piece.usage.prompt_tokens)
            metrics.answer_tokens.inc(piece.usage.completion_tokens)
        metrics.seconds.observe(time.monotonic() - start)


class _Reply:
    """What goes to the client: one object, or events and then `[DONE]`. A refusal is a status, or the last event of a stream."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        self.begun = False

    async def whole(self, body: dict[str, Any]) -> None:
        self.begun = True
        await as_json(body)(self.scope, self.receive, self.send)

    async def event(self, data: dict[str, Any]) -> None:
        if not self.begun:
            self.begun = True
            headers = [(name.lower().encode(), value.encode()) for name, value in SSE.items()]
            await self.send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._line(json.dumps(data, ensure_ascii=False))

    async def end(self) -> None:
        await self._line("[DONE]")
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def refuse(self, error: ApiError) -> None:
        """A stream that has begun ends with the error and without `[DONE]`; of a whole answer there is nothing to say any more."""
        if not self.begun:
            await error.response(self.scope, self.receive, self.send)
        else:
            with contextlib.suppress(RuntimeError):
                await self._line(json.dumps(error.body, ensure_ascii=False))
                await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _line(self, data: str) -> None:
        await self.send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})


async def _body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "send JSON, with the header 'Content-Type: application/json'")
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                # What is too large is still taken, up to a point: most clients read no answer before they have sent all.
                if size <= MOST_BYTES:
                    body += part
                elif size > MOST_READ:
                    break
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {BODY_SECONDS:g} s", headers={"Connection": "close"}) from None
    if size > MOST_BYTES:
        raise ApiError(413, f"the body has more than {MOST_BYTES} bytes", code="request_too_large", headers={"Connection": "close"})
    return bytes(body)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _stopping() -> ApiError:
    return ApiError(503, "the server is stopping", code="stopping", headers={"Retry-After": "5"})


def _usage(piece: Piece) -> dict[str, int] | None:
    return {**piece.usage._asdict(), "total_tokens": sum(piece.usage)} if piece.usage else None


def _chunk(head: dict[str, Any], delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {**head, "object": "chat.completion.chunk", "choices": [choice]}


def _completion(head: dict[str, Any], piece: Piece) -> dict[str, Any]:
    message = {"role": "assistant", "content": piece.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": piece.finish}
    return {**head, "object": "chat.completion", "choices": [choice], **({"usage": usage} if (usage := _usage(piece)) else {})}
