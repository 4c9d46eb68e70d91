"""A chat endpoint on loopback that misbehaves on command."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Reply(NamedTuple):
    """What the server does with a request: waits, then sends a status, headers and a body; None as body drops the connection."""

    body: Any
    status: int = 200
    headers: dict[str, str] = {}
    seconds: float = 0.0


def says(content: Any, seconds: float = 0.0, tokens: tuple[int, int] = (100, 10)) -> Reply:
    """A chat completion; what is no text is said as JSON."""
    text = content if isinstance(content, str) else json.dumps(content)
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return Reply(body, seconds=seconds)


def error(status: int, message: str = "no", headers: dict[str, str] | None = None) -> Reply:
    return Reply({"error": {"message": message}}, status, headers or {})


class Request(NamedTuple):
    body: dict[str, Any]
    headers: dict[str, str]
    time: float

    @property
    def asked(self) -> str:
        """The last message."""
        return self.body["messages"][-1]["content"]


class ChatServer:
    """`requests` in order of arrival; `most` is the largest number of them at the same time."""

    def __init__(self, behave: Callable[[Request], Reply]) -> None:
        self.behave, self.requests, self.most, self.now = behave, [], 0, 0  # type: ignore[var-annotated]
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                assert self.path == "/v1/chat/completions"
                outer.answer(self)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, address: Any) -> None:
                if not isinstance(sys.exception(), ConnectionError):
                    super().handle_error(request, address)

        self.http = Server(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        size = int(handler.headers["Content-Length"])
        sent = handler.rfile.read(size)
        if len(sent) < size:
            handler.close_connection = True  # who asked has gone half-way
            return
        request = Request(json.loads(sent), {k.lower(): v for k, v in handler.headers.items()}, time.monotonic())
        with self.lock:
            self.requests.append(request)
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            reply = self.behave(request)
            time.sleep(reply.seconds)
        finally:
            with self.lock:
                self.now -= 1
        if reply.body is None:
            handler.close_connection = True
            return
        payload = reply.body.encode() if isinstance(reply.body, str) else json.dumps(reply.body).encode()
        handler.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers, "Content-Length": str(len(payload))}.items():
            handler.send_header(name, value)
        try:
            handler.end_headers()
            handler.wfile.write(payload)
        except OSError:
            handler.close_connection = True  # who asked has gone: a time-out, or a kill

    def asked(self) -> list[str]:
        return [request.asked for request in self.requests]


@contextmanager
def serving(behave: Callable[[Request], Reply]) -> Iterator[ChatServer]:
    server = ChatServer(behave)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()


def in_turn(*replies: Reply) -> Callable[[Request], Reply]:
    """The replies one after the other, the last one for ever."""
    left = list(replies)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]
