"""A server on loopback that speaks as much of the hub's protocol as a push needs: who, which repository, how files come, the commit."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN, READER = "hf_writes", "hf_reads"


class Hub(ThreadingHTTPServer):
    """`repos`: {name: private}; `files`: {path: bytes} of the commit."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, bool] = {}
        self.files: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}
        self.address = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Nothing: a test's output is its own."""

    def _answer(self, value: Any, code: int = 200, **headers: str) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            whole = b""
            while size := int(self.rfile.readline(), 16):
                whole += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return whole
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _who(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def do_GET(self) -> None:
        if self.path == "/api/whoami-v2":
            if self._who() in (TOKEN, READER):
                return self._answer({"name": "me", "type": "user"})
            return self._answer({"error": "Invalid user token."}, 401)
        name = self.path.removeprefix("/api/models/").partition("/revision")[0]
        if name in self.server.repos:
            return self._answer({"id": name, "private": self.server.repos[name], "sha": "0" * 40, "siblings": []})
        return self._answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")

    def do_POST(self) -> None:
        body = self._body()
        if self._who() != TOKEN and self.path != "/api/validate-yaml":
            return self._answer({"error": "You have no right to write here."}, 403)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            private = bool(asked.get("private") or asked.get("visibility") == "private")
            if name in self.server.repos:
                return self._answer({"error": "You already created this model repo", "url": f"{self.server.address}/{name}"}, 409)
            self.server.repos[name] = private
            return self._answer({"url": f"{self.server.address}/{name}"})
        if self.path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            large = {f["path"] for f in files if f["path"].endswith(".safetensors")}
            kinds = [{"path": f["path"], "uploadMode": "lfs" if f["path"] in large else "regular", "shouldIgnore": False} for f in files]
            return self._answer({"files": kinds})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**of, "actions": {"upload": {"href": f"{self.server.address}/store/{of['oid']}"}}} for of in json.loads(body)["objects"]
            ]
            return self._answer({"transfer": "basic", "objects": objects})
        lines = [json.loads(line) for line in body.splitlines()]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.server.files[value["path"]] = self.server.stored[value["oid"]]
        return self._answer({"commitUrl": f"{self.server.address}/me/policy/commit/{'1' * 40}", "commitOid": "1" * 40})

    def do_PUT(self) -> None:
        self.server.stored[self.path.removeprefix("/store/")] = self._body()
        self._answer({})
