"""Stores of runs that do not answer, and names and files in the places of a work directory."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

from tasks import reach
from tasks.ledger import given_store
from tests.odd.case import Case


class Answer(http.server.BaseHTTPRequestHandler):
    code = 200

    def do_HEAD(self) -> None:
        self.send_response(self.code)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def answering(code: int) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Coded", (Answer,), {"code": code}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def store_at(uri: str) -> Callable[[Path], object]:
    def act(folder: Path) -> object:
        with patch.dict(os.environ, {"MLFLOW_TRACKING_URI": uri}), patch.multiple(reach, WAIT_SECONDS=0.0, ANSWER_SECONDS=0.2):
            return given_store()

    return act


def store_that_says(code: int, uri: str = "http://{}") -> Callable[[Path], object]:
    def act(folder: Path) -> object:
        with answering(code) as place:
            return store_at(uri.format(place))(folder)

    return act


def store_that_hangs(folder: Path) -> object:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return store_at(f"http://127.0.0.1:{server.getsockname()[1]}")(folder)


def patience_on_a_worker(folder: Path) -> None:
    with patch.dict(os.environ, {"PREFECT__FLOW_RUN_ID": "1"}):
        assert store_at("http://127.0.0.1:9")(folder) == "http://127.0.0.1:9"


SILENT = "does not answer (Connection refused)"
CASES = [
    Case("a tracking server that is away", store_at("http://127.0.0.1:9"), f"http://127.0.0.1:9 {SILENT}"),
    Case("a tracking server that is away, with a password", store_at("http://me:secret@127.0.0.1:9"), f"of runs 127.0.0.1:9 {SILENT}"),
    Case("a database of runs that is away", store_at("postgresql://me:secret@127.0.0.1:9/runs"), f"of runs 127.0.0.1:9/runs {SILENT}"),
    Case("a tracking server that hangs", store_that_hangs, "does not answer (timed out)"),
    Case("a gateway whose tracking server is away", store_that_says(503), "does not answer (503 "),
    Case("a tracking server without a port's number", store_at("http://host:port"), "does not answer (Port could not be cast"),
    Case("a tracking server without a host", store_at("http://"), "does not answer"),
    Case("a tracking server that asks who it is", store_that_says(401)),
    Case("a tracking server that takes no such question", store_that_says(405, "http://me:secret@{}/mlflow")),
    Case("a tracking server whose certificates are nobody's business here", store_that_says(200, "https://{}")),
    Case("a store that is a file", store_at("sqlite:////nowhere/runs.db")),
    Case("a flow on a worker sits out a restart of its store", patience_on_a_worker),
]
