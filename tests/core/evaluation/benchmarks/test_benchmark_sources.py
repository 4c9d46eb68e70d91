"""Benchmark files: from a folder, or downloaded whole and as pinned, or not at all."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from moslim_core.errors import UserError
from moslim_core.evaluation.benchmarks.hackaprompt import LEVELS
from moslim_core.evaluation.benchmarks.sources import File, download, folder, records
from moslim_core.registry import benchmark
from tests.core.evaluation.benchmarks.made_files import REAL, write

CONTENT = b'{"question_id": 1}\n'
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME = "made/question.jsonl"
FILES = [file for name in benchmark.own for file in (*benchmark[name].files, *benchmark[name].judged_files)]


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """Serves `CONTENT` at /file, cuts it short at /cut, and has nothing else; counts its requests in `served`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.server.served += 1  # type: ignore[attr-defined]
            self.send_response(200 if self.path in ("/file", "/cut") else 404)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:5] if self.path == "/cut" else CONTENT)

        def log_message(self, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.served = 0  # type: ignore[attr-defined]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield http
    http.shutdown()
    http.server_close()
    thread.join()


def address(server: ThreadingHTTPServer, path: str) -> str:
    return f"http://127.0.0.1:{server.server_port}/{path}"


def test_downloads_once_what_is_pinned(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    file = File(NAME, "rows", "here", address(server, "file"), DIGEST)
    for _ in range(2):
        assert folder([file], None, tmp_path / "cache") == tmp_path / "cache"
    assert (tmp_path / "cache" / NAME).read_bytes() == CONTENT
    assert server.served == 1  # type: ignore[attr-defined]
    assert [p.name for p in (tmp_path / "cache" / "made").iterdir()] == ["question.jsonl"]


@pytest.mark.parametrize(
    ("path", "digest", "why"),
    [("file", "0" * 64, "not the file that was pinned"), ("cut", DIGEST, "can't be downloaded"), ("none", DIGEST, "404")],
)
def test_anything_else_leaves_nothing(server: ThreadingHTTPServer, tmp_path: Path, path: str, digest: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as caught:
        download(address(server, path), digest, tmp_path / NAME)
    assert str(caught.value).lower().endswith("give a folder that holds question.jsonl.")
    assert len(str(caught.value).splitlines()) <= 3
    assert not list(tmp_path.rglob("*.*"))


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"can't be downloaded .*\nCheck the network"):
        download("http://127.0.0.1:9/file", DIGEST, tmp_path / NAME)


def test_a_given_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert folder(FILES, tmp_path, tmp_path / "cache") == tmp_path
    assert folder([], None, tmp_path / "cache") == tmp_path / "cache"


def test_what_has_no_address_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"levels.json can't be downloaded.*\nGive a folder that holds it: .*HackAPrompt"):
        folder(benchmark["hackaprompt"](None).reads, None, tmp_path)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"levels.json: there is no such file.\nGive a folder that holds it: .*second_template"):
        records(tmp_path, LEVELS, dict)
    write(tmp_path, LEVELS, [])
    with pytest.raises(UserError, match="has no rows"):
        records(tmp_path, LEVELS, dict)
    (tmp_path / "hackaprompt/levels.json").write_text("[1,")
    with pytest.raises(UserError, match=r"levels.json: not JSON \(.*line 1\)"):
        records(tmp_path, LEVELS, dict)
    (tmp_path / "hackaprompt/levels.json").write_text('{"level": 1}')
    with pytest.raises(UserError, match="row 1: KeyError: 'template'"):
        records(tmp_path, LEVELS, lambda row: row["template"])


@pytest.mark.parametrize("file", [file for file in FILES if file.url], ids=lambda file: file.name)
def test_pinned_digests_are_those_of_real_files(file: File) -> None:
    if not (REAL / file.name).is_file():
        pytest.skip(f"MOSLIM_DATA_DIR names no folder with {file.name} in it")
    assert hashlib.sha256((REAL / file.name).read_bytes()).hexdigest() == file.sha256
