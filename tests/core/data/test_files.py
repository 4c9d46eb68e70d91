"""Hub data sets come from the hub, at the pinned commit and only the files needed; from a folder without any network."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from moslim_core.data.files import hub_files
from moslim_core.registry import source
from tests.core.data import hub

ROOT = Path(__file__).parents[3]
COMMIT = "0123456789abcdef0123456789abcdef01234567"

READ = """
import sys
from moslim_core.data import sources
from moslim_core.errors import UserError
from moslim_core.preferences import PreferenceSchema
from moslim_core.data.settings import DataSettings
name, levels = sys.argv[1:]
schema = PreferenceSchema.model_validate([{"name": n, "levels": ["one", "two", "three", "four", "five"][: int(k)]}
                                          for n, k in (part.split("=") for part in levels.split(","))])
try:
    [source] = sources.open_sources(DataSettings(source=name), schema)
except UserError as error:
    sys.exit(str(error))
print(source.about["revision"], sum(1 for _ in source.rows()))
"""


class Hub(BaseHTTPRequestHandler):
    """The three requests that a download makes: what a branch's commit is, which files it has, and a file."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        self.asked.append(f"{self.command} {'/'.join(parts)}")
        if parts[:2] == ["api", "datasets"] and parts[4] == "revision":
            return self.answer(json.dumps({"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": []}).encode())
        if parts[:2] == ["api", "datasets"] and parts[4] == "tree":
            files = [f for f in sorted(self.folder.rglob("*")) if f.is_file()]
            listed = [{"type": "file", "path": str(f.relative_to(self.folder)), "size": f.stat().st_size, "oid": digest(f)} for f in files]
            return self.answer(json.dumps(listed).encode())
        if parts[0] == "datasets" and parts[3] == "resolve":
            file = self.folder.joinpath(*parts[5:])
            return self.answer(file.read_bytes(), {"ETag": f'"{digest(file)}"', "X-Repo-Commit": parts[4]})
        self.send_error(404)

    def answer(self, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(200)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def digest(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    handler = type("Handler", (Hub,), {"folder": tmp_path / "hub", "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def read(home: Path, port: int, name: str, levels: str, **more: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
    hub_is = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **more}
    command = [sys.executable, "-c", READ, name, levels]
    return subprocess.run(command, cwd=ROOT, env={**kept, **hub_is}, capture_output=True, text=True, timeout=120, check=False)


def test_download_takes_the_pinned_commit_and_the_files_needed(tmp_path: Path, server: ThreadingHTTPServer) -> None:
    made = hub.make(tmp_path / "made", 12) / "helpsteer2"
    hub.written(made / "disagreements" / "disagreements.jsonl.gz", {"prompt": "not to be read"})
    made.rename(tmp_path / "hub")
    handler: Any = server.RequestHandlerClass
    found = read(tmp_path / "home", server.server_port, "helpsteer2", "helpfulness=5,verbosity=5")
    assert found.returncode == 0, found.stderr
    revision = source["helpsteer2"].revision
    assert found.stdout.split() == [revision, str(12 + 50)]
    fetched = {line.split("/")[-1] for line in handler.asked if line.startswith("GET datasets/")}
    assert fetched == {"train.jsonl.gz", "validation.jsonl.gz"}
    assert all(f"nvidia/HelpSteer2/resolve/{revision}" in line for line in handler.asked if "resolve" in line)
    # What is in the cache needs no network; what is not is missed at once, with a remedy.
    again = read(tmp_path / "home", server.server_port, "helpsteer2", "helpfulness=5", HF_HUB_OFFLINE="1")
    assert again.stdout.split() == [revision, str(12 + 50)], again.stderr
    missing = read(tmp_path / "elsewhere", server.server_port, "helpsteer2", "helpfulness=5", HF_HUB_OFFLINE="1")
    assert missing.returncode == 1 and len(missing.stderr.splitlines()) == 2, missing.stderr
    assert missing.stderr.startswith("data.source=helpsteer2: nvidia/HelpSteer2 can't be downloaded (")
    assert "or give data.path with a folder that holds train.jsonl.gz, validation.jsonl.gz." in missing.stderr


def test_branch_is_told_by_the_commit_that_was_read(tmp_path: Path, server: ThreadingHTTPServer) -> None:
    (hub.make(tmp_path / "made", 5) / "ultrasafety").rename(tmp_path / "hub")
    found = read(tmp_path / "home", server.server_port, "ultrasafety", "harmlessness=2")
    assert found.stdout.split() == [COMMIT, "10"], found.stderr


def test_folder_may_hold_a_part_of_the_files(tmp_path: Path) -> None:
    folder = hub.make(tmp_path, 12) / "pku-saferlhf"
    (folder / "data" / "Alpaca-7B" / "train.jsonl").unlink()
    files, revision = hub_files("pku-saferlhf", source["pku-saferlhf"], folder)
    assert [(split, file.parent.name) for split, file in files] == [
        ("test", "Alpaca-7B"), ("train", "Alpaca2-7B"), ("test", "Alpaca2-7B"), ("train", "Alpaca3-8B"), ("test", "Alpaca3-8B"),
    ]  # fmt: skip
    assert revision == "of the files in data.path"
