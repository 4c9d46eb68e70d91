"""The ledger reads outputs where the store keeps them: in place on this machine, as one copy from a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.server import free_port, stop, wait_until_healthy
from moslim_core.errors import UserError
from tasks.launcher import guarded
from tasks.ledger import Ledger
from tasks.references import MANIFEST, intact_digest, write_manifest


def output(folder: Path, text: str) -> tuple[Path, str]:
    folder.mkdir()
    (folder / "rows.jsonl").write_text(text)
    return folder, write_manifest(folder)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files would go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A tracking server that keeps artefacts where only it can reach them."""
    port, log = free_port(), tmp_path / "server.log"
    url = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--artifacts-destination", str(tmp_path / "store"),
    ]  # fmt: skip
    with log.open("wb") as file:
        process = subprocess.Popen(
            guarded(command), stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        )
    try:
        wait_until_healthy(f"{url}/health", process, log, "the MLflow server")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        yield url
    finally:
        stop(process)


def finish(ledger: Ledger, folder: Path) -> str:
    made, digest = output(folder, "one\n")
    run = ledger.open_stage("label", "f" * 64, None, {"key": 1})
    return ledger.finish(run, "rows", made, digest).uri


def test_local_output_is_read_in_place(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    ledger = Ledger(tmp_path / "work")
    folder = ledger.download(finish(ledger, tmp_path / "made"))
    assert folder.is_relative_to(tmp_path / "work" / "mlflow" / "artifacts")
    assert (folder / "rows.jsonl").read_text() == "one\n"
    (folder / "rows.jsonl").write_text("two\n")
    assert ledger.finished("label", "f" * 64) is None, "a damaged output is not trusted"
    assert list(temporary.iterdir()) == []


@pytest.mark.integration
def test_output_of_a_server_is_fetched_once_and_found_by_its_alias(tmp_path: Path, temporary: Path, server: str) -> None:
    ledger = Ledger(tmp_path / "work")
    uri = finish(ledger, tmp_path / "made")
    folder = ledger.download(uri)
    assert folder.is_relative_to(tmp_path / "work") and (folder / "rows.jsonl").read_text() == "one\n"
    first = (folder / "rows.jsonl").stat().st_mtime_ns
    assert ledger.finished("label", "f" * 64) is not None
    ledger.client.create_registered_model("policy")
    version = ledger.client.create_model_version("policy", uri, uri.split("/")[1])
    ledger.client.set_registered_model_alias("policy", "champion", version.version)
    for name in ("models:/policy@champion", "models:/policy/1", uri):
        assert ledger.download(name) == folder
    assert (folder / "rows.jsonl").stat().st_mtime_ns == first
    assert list(temporary.iterdir()) == []
    with pytest.raises(Exception, match="nobody"):
        ledger.download("models:/policy@nobody")


OUTSIDE = (
    "../../secret",
    "output/../../../secret",
    "%2e%2e/%2E%2e/secret",
    ".%2e/secret",
    "%252e%252e/secret",
    "..%2fsecret",
    "..\\secret",
    "/etc",
    "%2fetc",
)


def test_a_reference_leads_nowhere_but_below_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    ledger = Ledger(tmp_path)
    for path in OUTSIDE:
        with pytest.raises(UserError, match="below it"):
            ledger.download(f"runs:/{'0' * 32}/{path}")


def test_a_manifest_that_points_elsewhere_is_not_intact(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("one")
    made, digest = output(tmp_path / "made", "one")
    assert intact_digest(made) == digest
    listed = json.loads((made / MANIFEST).read_text())
    for elsewhere in ("../secret", str(tmp_path / "secret")):
        (made / MANIFEST).write_text(json.dumps({elsewhere: listed["rows.jsonl"]}))
        assert intact_digest(made) is None
