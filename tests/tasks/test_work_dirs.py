"""A work directory's odd name, another user's files, SQLite locked, a name that MLflow refuses: works, or is told before."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_param_name
from typer.testing import CliRunner

from flows.cli.commands import app
from moslim_core.errors import UserError
from tasks.ledger import ledger as ledger_module
from tasks.ledger.cleaning import DAY, Sweep
from tasks.ledger.ledger import LOCKED_SECONDS, Ledger, name_in, store_error
from tasks.ledger.of_work_dir import ledger_of
from tasks.ledger.references import write_manifest
from tasks.surroundings import work_dirs

ODD_NAME = "w#1 100%41 %2e é 日本\u3000&=;'\""


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory with an odd name and a ledger in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        folder = work_dirs.made(tmp_path_factory.mktemp("odd") / ODD_NAME)
        patch.chdir(folder.parent)
        ledger_of(folder)
    return folder


def finish(work_dir: Path, fingerprint: str) -> str:
    """The reference of a finished stage's output."""
    ledger = ledger_of(work_dir)
    made = work_dir.parent / "made"
    made.mkdir()
    (made / "rows.jsonl").write_text("one\n")
    run = ledger.open_stage("label", fingerprint, None, {"very good!": 1})
    ledger.log_points(run, [(0, {"(none)": 1.0, "very good!": 2.0, "good/4.5": 3.0})])
    return ledger.finish(run, "rows", made, write_manifest(made)).uri


def test_all_of_a_ledger_lies_below_a_folder_with_an_odd_name(work_dir: Path) -> None:
    uri = finish(work_dir, "a" * 64)
    ledger = ledger_of(work_dir)
    folder = ledger.download(uri)
    assert folder.is_relative_to(work_dir) and (folder / "rows.jsonl").read_text() == "one\n"
    found = ledger.finished("label", "a" * 64)
    assert found is not None and found.uri == uri
    assert [path.name for path in work_dir.parent.iterdir()] == [work_dir.name], "nothing went elsewhere"
    assert (work_dir / "mlflow" / "mlflow.db").stat().st_size > 0
    metrics = ledger.client.get_run(found.run_id).data.metrics
    assert metrics == {"-x28-none-x29-": 1.0, "very good-x21-": 2.0, "good/4.5": 3.0}


def test_a_link_in_an_output_leads_nowhere(work_dir: Path) -> None:
    ledger, secret = ledger_of(work_dir), work_dir / "secret"
    secret.mkdir()
    (secret / "key").write_text("key")
    output = ledger.download(finish(work_dir, "b" * 64))
    run = output.parents[1].name
    (output / "way").symlink_to(secret)
    for reference in (f"runs:/{run}/output/way", f"runs:/{run}/output"):
        with pytest.raises(UserError, match="out of the run"):
            ledger.download(reference)
    (output / "way").unlink()
    (output / "near").symlink_to(output / "rows.jsonl")
    assert ledger.download(f"runs:/{run}/output") == output


def test_a_registered_source_is_an_output_of_its_run(work_dir: Path) -> None:
    ledger = ledger_of(work_dir)
    output = ledger.download(uri := finish(work_dir, "c" * 64))
    run = ledger.client.get_run(uri.split("/")[1]).info
    ledger.client.create_registered_model("sources")
    sources = [(uri, run.run_id), (f"{run.artifact_uri}/output", run.run_id), ("/etc", None), ("/etc", run.run_id), (f"{uri}/%2e%2e", None)]
    for source, of in sources:
        ledger.client.create_model_version("sources", source, of)
    assert ledger.download("models:/sources/1") == ledger.download("models:/sources/2") == output
    for version in (3, 4, 5):
        with pytest.raises(UserError):
            ledger.download(f"models:/sources/{version}")


@pytest.fixture
def locked(work_dir: Path) -> sqlite3.Connection:
    """Another program's exclusive lock on the ledger's database, held until it is rolled back."""
    connection = sqlite3.connect(work_dir / "mlflow" / "mlflow.db", check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    return connection


def test_a_locked_database_is_waited_for(work_dir: Path, locked: sqlite3.Connection) -> None:
    assert f"timeout={LOCKED_SECONDS:g}" in ledger_of(work_dir).uri and LOCKED_SECONDS > 60
    threading.Timer(0.5, locked.rollback).start()
    assert ledger_of(work_dir).finished("label", "d" * 64) is None


def test_a_database_that_stays_locked_is_told_in_three_lines(
    work_dir: Path, locked: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "LOCKED_SECONDS", 0.2)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    started = time.monotonic()
    try:
        with pytest.raises(UserError, match="database is locked") as raised:
            Ledger(work_dir).open_pipeline("e" * 64, "align", {})
    finally:
        locked.rollback()
    assert time.monotonic() - started < 4, "SQLite's own patience is 5 s: the address's was not taken"
    assert len(str(raised.value).splitlines()) == 3
    # As a store that is open already says it.
    told = store_error(raised.value.__cause__)
    assert told is not None and str(told) == str(raised.value)
    assert store_error(ValueError("locked")) is None


@given(st.lists(st.text(st.characters(codec=None), max_size=12) | st.text("-x2a/.é(", max_size=8), unique=True, max_size=4))
def test_any_name_is_kept_and_no_two_become_one(names: list[str]) -> None:
    kept = [name_in(name) for name in names]
    assert len(set(kept)) == len(names)
    for name, as_kept in zip(names, kept, strict=True):
        _validate_metric_name(as_kept)
        _validate_param_name(as_kept)
        assert as_kept == name or "-x" in as_kept


def test_usual_names_stay_and_long_ones_are_cut() -> None:
    for usual in ("reward/warmth/f1", "before/control/verbosity.mae", "Оценка 5", "a: b-c"):
        assert name_in(usual) == usual
    one, other = name_in("é" * 400), name_in("é" * 401)
    assert one != other and max(len(one), len(other)) <= 250


NOT_MINE = """
import os, sys
from pathlib import Path
from flows.cli.commands import app
from moslim_core.errors import UserError
from tasks.surroundings import work_dirs
os.setgid(54321); os.setuid(54321)
for folder in sys.argv[1:]:
    try:
        work_dirs.made(Path(folder))
    except UserError as error:
        print(error, end="\\0")
"""


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root becomes another user")
def test_a_second_user_is_told_before_anything_is_written() -> None:
    names = ("mlflow/mlflow.db", "locks/registry-policy.lock", "stages/deep", "up.lock")
    with tempfile.TemporaryDirectory() as folder:
        works = [Path(folder) / str(number) for number in range(len(names))]
        for work, name in zip(works, names, strict=True):
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).mkdir(0o755) if name == "stages/deep" else (work / name).touch(0o644)
            for parent in (Path(folder), work, (work / name).parent):
                parent.chmod(0o777)
        before = sorted(Path(folder).rglob("*"))
        done = subprocess.run([sys.executable, "-c", NOT_MINE, *map(str, works)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        for work, name, told in zip(works, names, done.stdout.split("\0"), strict=False):
            assert f"{work / name} belongs to root" in told and len(told.splitlines()) <= 3
        assert sorted(Path(folder).rglob("*")) == before


def aged(path: Path, days: float) -> Path:
    for file in (path, *path.rglob("*")):
        os.utime(file, (time.time() - days * DAY,) * 2)
    return path


def attempt(work_dir: Path, letter: str, days: float) -> Path:
    folder = work_dir / "stages" / (letter * 64)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "weights").write_bytes(b"0" * 1_000_000)
    (work_dir / "locks").mkdir(exist_ok=True)
    (work_dir / "locks" / f"{folder.name}.lock").touch()
    return aged(folder, days)


def test_cleaning_takes_what_nothing_refers_to(work_dir: Path) -> None:
    output = ledger_of(work_dir).download(finish(work_dir, "1" * 64))
    finished, old, young, live = (attempt(work_dir, letter, days) for letter, days in (("1", 0), ("2", 30), ("3", 1), ("4", 30)))
    locks = work_dir / "locks"
    (locks / f"{'5' * 64}.lock").touch()
    (locks / "own notes").touch()
    copies, answers = work_dir / "mlflow" / "copies", work_dir / "cache" / "answers"
    shown, copy, recent = (copies / (letter * 16) for letter in "abc")
    store, used = (answers / (letter * 64) for letter in "ab")
    for folder in (shown, copy, recent, store, used):
        folder.mkdir(parents=True)
        (folder / "file").write_text("x")
        aged(folder, 1 if folder in (recent, used) else 30)
    (copies / f"{copy.name}.lock").touch()
    (work_dir / "latest").mkdir()
    (work_dir / "latest" / "policy").symlink_to(shown)
    before = {path: path.lstat().st_mtime_ns for path in work_dir.rglob("*")}

    with FileLock(str(locks / f"{live.name}.lock")):
        told = {swept.kind: swept for swept in Sweep(work_dir, 7, dry=True).run()}
        assert told["attempts of stages"].removed == [finished, old] and told["attempts of stages"].bytes == 2_000_000
        assert {path: path.lstat().st_mtime_ns for path in work_dir.rglob("*")} == before, "a dry run changes nothing"
        Sweep(work_dir, 7, dry=False).run()
        assert not finished.exists() and not old.exists() and young.exists() and live.exists()
        assert sorted(path.name for path in locks.iterdir()) == sorted([f"{young.name}.lock", f"{live.name}.lock", "own notes"])
        assert copy.exists() and store.exists(), "a stage at work may read them"
    Sweep(work_dir, 7, dry=False).run()
    assert not live.exists() and young.exists()
    assert [path.exists() for path in (shown, copy, recent, store, used)] == [True, False, True, False, True]
    assert not (copies / f"{copy.name}.lock").exists()
    assert (output / "rows.jsonl").is_file() and ledger_of(work_dir).finished("label", "1" * 64) is not None
    Sweep(work_dir, 0, dry=False).run()
    assert not young.exists() and shown.exists()


def test_the_command_says_what_goes_and_refuses_other_folders(work_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The command sets variables for the libraries, which other tests must not find.
    monkeypatch.setattr(os, "environ", os.environ.copy())
    folder = attempt(work_dir, "6", 30)
    said = CliRunner().invoke(app, ["clean", "--dry-run", "--work-dir", str(work_dir)])
    assert said.exit_code == 0 and folder.exists()
    assert "attempts of stages  1 would be removed, 1.0 MB; 0 would stay" in said.output
    said = CliRunner().invoke(app, ["clean", "--work-dir", str(work_dir)])
    assert said.exit_code == 0 and not folder.exists()
    (tmp_path / "stages" / ("6" * 64)).mkdir(parents=True)
    refused = CliRunner().invoke(app, ["clean", "--work-dir", str(tmp_path)])
    assert refused.exit_code == 2 and "no work directory" in refused.output
    assert (tmp_path / "stages" / ("6" * 64)).exists()


@pytest.mark.parametrize(
    "command",
    [
        "chat --policy runs:/1/output --message Hello",
        "chat --policy models:/policy@champion --message Hello",
        "chat --policy nowhere --message Hello",
        "serve --policy runs:/1/output",
        "studio",
        "export --to merged --policy runs:/1/output --output merged",
        "promote --policy nowhere",
        "rollback",
        "score --reward-model models:/reward@champion --input rows.jsonl",
        "down",
    ],
)
def test_what_needs_a_run_makes_no_work_directory_of_a_mistyped_name(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, [*command.split(), "--work-dir", "mistyped"])
    assert said.exit_code == 2
    assert "there is no such folder" in said.output or "is no work directory" in said.output
    assert not list(tmp_path.iterdir())
