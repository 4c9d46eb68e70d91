"""Stores of runs that do not answer, and names and files in the places of a work directory."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

from tasks.display.latest_folder import write_summary
from tasks.ledger import store_reachable
from tasks.ledger.ledger import given_store
from tasks.ledger.registry import Registry
from tasks.surroundings import environment, work_dirs
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
        with patch.dict(os.environ, {"MLFLOW_TRACKING_URI": uri}), patch.multiple(store_reachable, WAIT_SECONDS=0.0, ANSWER_SECONDS=0.2):
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


def registry(name: str) -> Callable[[Path], object]:
    return lambda folder: Registry(folder / "output", name)


def model_cache_that_is_a_file(folder: Path) -> object:
    a_file(folder / "cache")
    with patch.dict(os.environ, {"MOSLIM_MODEL_CACHE": str(folder / "cache")}):
        return environment.model_cache(folder)


def in_place_of(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    """A work directory in which something else stands at `name`."""

    def act(folder: Path) -> Path:
        path = folder / "work" / name
        path.parent.mkdir(parents=True)
        make(path)
        return work_dirs.made(folder / "work")

    return act


def a_file(path: Path) -> None:
    path.write_text("mine")


def a_link_to_nowhere(path: Path) -> None:
    path.symlink_to(path.parent / "gone")


def what_links_lead_to(folder: Path) -> None:
    """Folders may lie elsewhere, and a link to an output that was cleaned away is renewed."""
    (folder / "disk").mkdir()
    (folder / "work" / "latest").mkdir(parents=True)
    (folder / "work" / "mlflow").symlink_to(folder / "disk")
    a_link_to_nowhere(folder / "work" / "latest" / "policy")
    assert work_dirs.made(folder / "work") == folder / "work"


def spoiled_summary(folder: Path) -> None:
    for spoiled in (b"{", b"[1]", b"\xff\xfe", b'"a"'):
        (folder / "summary.json").write_bytes(spoiled)
        write_summary(folder, {"run_id": "1", "figure": float("nan")})
        assert json.loads((folder / "summary.json").read_text()) == {"run_id": "1", "figure": None}


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
    *(
        Case(f"{what} as a registry's name", registry(name), "letters, digits, points, dashes and underscores")
        for what, name in (
            ("nothing", ""),
            ("300 letters", "x" * 300),
            ("150 Russian letters", "\u0438" * 150),
            ("a point", "."),
            ("two points", ".."),
            ("a path", "a/b"),
            ("a way out", "../x"),
            ("a colon", "a:b"),
            ("an alias", "a@b"),
            ("a space", "a b"),
            ("a line's end", "a\n"),
            ("half a character", "a\ud83d"),
            ("a byte that is none", "a\0"),
        )
    ),
    Case("a model cache that is a file", model_cache_that_is_a_file, "is no folder, and models are kept there"),
    *(
        Case(f"a file in place of the folder {name}", in_place_of(name, a_file), f"{name} is a file, and runs keep a folder there")
        for name in ("mlflow", "cache", "prefect", "locks", "stages", "latest", "models", "mlflow/artifacts", "cache/datasets")
    ),
    *(
        Case(f"a folder in place of the file {name}", in_place_of(name, Path.mkdir), f"{name} is a folder, and runs keep a file there")
        for name in ("mlflow/mlflow.db", "mlflow/init.lock", "up.json", "latest/summary.json", "cache/answers.sqlite")
    ),
    Case("a folder in place of the link latest/policy", in_place_of("latest/policy", Path.mkdir), "runs keep a link there"),
    Case("a link to nowhere in place of the folder mlflow", in_place_of("mlflow", a_link_to_nowhere), "is a link that leads nowhere"),
    Case("links in a work directory", what_links_lead_to),
    Case("a summary that somebody spoiled", spoiled_summary),
    Case("a flow on a worker sits out a restart of its store", patience_on_a_worker),
]
