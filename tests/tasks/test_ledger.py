"""The ledger reads outputs where the store keeps them: in place on this machine, as one copy from a server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from flows.service.server import free_port, stop, wait_until_healthy
from moslim_core.errors import UserError
from tasks.execution.launcher import guarded
from tasks.ledger.ledger import OWNER, Ledger
from tasks.ledger.references import MANIFEST, intact_digest, write_manifest


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


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A tracking server that keeps artefacts where only it can reach them: (its address, that folder)."""
    home, port = tmp_path_factory.mktemp("server"), free_port()
    url, store, log = f"http://127.0.0.1:{port}", home / "store", home / "server.log"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{home / 'server.db'}", "--artifacts-destination", str(store),
    ]  # fmt: skip
    with log.open("wb") as file:
        process = subprocess.Popen(
            guarded(command), stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        )
    try:
        wait_until_healthy(f"{url}/health", process, log, "the MLflow server")
        yield url, store
    finally:
        stop(process)


@pytest.fixture
def store(running: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running[0])
    return running[1]


def finish(ledger: Ledger, folder: Path, fingerprint: str = "f" * 64) -> str:
    made, digest = output(folder, "one\n")
    run = ledger.open_stage("label", fingerprint, None, {"key": 1})
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
def test_output_of_a_server_is_fetched_once_and_found_by_its_alias(tmp_path: Path, temporary: Path, store: Path) -> None:
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


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A ledger in SQLite with a finished run."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    ledger = Ledger(tmp_path / "work")
    finish(ledger, tmp_path / "made")
    return ledger


def test_a_work_directory_that_was_moved_finds_its_outputs_and_goes_on(local: Ledger, tmp_path: Path) -> None:
    found = local.finished("label", "f" * 64)
    assert found is not None
    (tmp_path / "work").rename(tmp_path / "moved elsewhere")
    moved = Ledger(tmp_path / "moved elsewhere")
    assert moved.finished("label", "f" * 64) == found
    assert moved.download(found.uri).is_relative_to(tmp_path / "moved elsewhere")
    made, digest = output(tmp_path / "more", "two\n")
    after = moved.finish(moved.open_stage("label", "e" * 64, None, {}), "rows", made, digest)
    assert moved.download(after.uri).is_relative_to(tmp_path / "moved elsewhere") and not (tmp_path / "work").exists()


def test_only_what_is_missing_or_damaged_is_made_again(local: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.ledger.ledger.LOOK_SECONDS", 0.0)
    (uri,) = {local.finished("label", "f" * 64).uri}  # type: ignore[union-attr]
    folder, real, errors = local.download(uri), local.download, [PermissionError("not now"), OSError("a disk is away")]

    def away(reference: str) -> Path:
        if errors:
            raise errors.pop()
        return real(reference)

    monkeypatch.setattr(local, "download", away)
    assert local.finished("label", "f" * 64) is not None, "a store that comes back is waited for"
    errors += [OSError("a disk is away")] * 100
    with pytest.raises(UserError, match=r"can't say what was made already \(a disk is away\)\.\nNothing is made again"):
        local.finished("label", "f" * 64)
    errors.clear()
    for damage in ("cut {", "[]", '{"rows.jsonl": {}}', '{"rows.jsonl": 1}'):
        (folder / MANIFEST).write_text(damage)
        assert local.finished("label", "f" * 64) is None
    shutil.rmtree(folder)
    assert local.finished("label", "f" * 64) is None


def test_a_run_is_taken_up_only_when_nobody_works_in_it(local: Ledger) -> None:
    one = local.open_pipeline("p" * 64, "align", {})
    two = local.open_pipeline("p" * 64, "align", {})
    assert one != two, "two live pipelines with the same settings"
    local.close(one, "FAILED")
    assert local.open_pipeline("p" * 64, "align", {}) == one
    local.client.set_tag(two, OWNER, f"{socket.gethostname()}:{2**22 + 1}:0")  # of a process that was killed
    assert local.open_pipeline("p" * 64, "align", {}) == two


@pytest.mark.integration
def test_a_server_that_lost_an_output_and_one_that_is_away_differ(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.ledger.ledger.LOOK_SECONDS", 0.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    ledger = Ledger(tmp_path / "work")
    uri = finish(ledger, tmp_path / "made", "e" * 64)
    folder = ledger.download(uri)
    (folder / "rows.jsonl").write_text("spoiled\n")
    assert ledger.finished("label", "e" * 64) is not None, "the server's own is intact"
    shutil.rmtree(folder)
    (kept,) = store.rglob(f"{uri.split('/')[1]}/**/rows.jsonl")
    kept.unlink()
    assert ledger.finished("label", "e" * 64) is None
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(kept.parent)
    assert ledger.finished("label", "e" * 64) is None
    ledger.client = MlflowClient(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UserError, match="can't say what was made already"):
        ledger.finished("label", "e" * 64)
