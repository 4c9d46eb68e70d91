"""Labelling reads of the chat model what it needs, on a machine that could not train."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from moslim_core.settings import Settings
from tests.core.data.labelling import PREFERENCES, rated
from tests.core.data.test_files import COMMIT, Hub

ROOT = Path(__file__).parents[2]
BASE = "owner/name"

LABEL = """
import sys
from functools import partial
from moslim_core.preflight import check_models
from moslim_core.settings import Settings
from tasks.surroundings import environment
from tasks.execution.stage import run_stage
from tasks.ledger.of_work_dir import ledger_of
from tasks.stages import label

settings = environment.prepared(Settings.model_validate_json(sys.argv[1]))
check = partial(check_models, settings, environment.model_cache(settings.work_dir), ("label",))
outcome = run_stage(label.STAGE, settings, {}, None, check)
print(ledger_of(settings.work_dir).download(outcome.ref.uri))
"""
RESOLVE = "import sys; from pathlib import Path; from moslim_core.models import resolve; print(resolve(sys.argv[1], Path(sys.argv[2])))"


class ModelHub(Hub):
    """The same requests for a model's files: their addresses lack the kind of repository."""

    def do_GET(self) -> None:
        self.path = self.path.replace("/api/models/", "/api/datasets/").replace(f"/{BASE}/resolve/", f"/datasets/{BASE}/resolve/")
        super().do_GET()


@pytest.fixture
def server(tmp_path: Path, tiny_chat: Path) -> Iterator[ThreadingHTTPServer]:
    handler = type("Handler", (ModelHub,), {"folder": tiny_chat, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def run(code: str, *arguments: str, home: Path, port: int) -> str:
    """What a process prints that sees no GPU and this hub alone."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MLFLOW_")) and not k.lower().endswith("_proxy")}
    own = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, env={**kept, **own}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_labelling_needs_no_gpu_and_fetches_no_weights(tmp_path: Path, server: ThreadingHTTPServer) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rated()))
    settings = Settings.model_validate(
        {
            "work_dir": tmp_path / "work",
            "preferences": PREFERENCES,
            "data": {"source": "jsonl", "path": tmp_path / "rows.jsonl"},
            "model": {"base": BASE, "device": "cuda", "dtype": "bfloat16"},
        }
    )
    handler: Any = server.RequestHandlerClass
    here = {"home": tmp_path / "home", "port": server.server_port}
    rows = Path(run(LABEL, settings.model_dump_json(), **here))
    assert json.loads((rows / "data_card.json").read_text())["rows"]["train"]

    def files() -> set[str]:
        return {line.split("/")[-1] for line in handler.asked if "/resolve/" in line}

    assert {"config.json", "tokenizer.json", "chat_template.jinja"} <= files() and "model.safetensors" not in files()
    folder = Path(run(RESOLVE, BASE, str(tmp_path), **here))
    assert folder.name == COMMIT and (folder / "model.safetensors").is_file(), "who needs them gets them"
