"""Checkpoints in a stage's run: another machine takes the newest that arrived whole; on a local ledger none is sent."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from moslim_core.training.checkpoints import MARKER, last_complete
from tasks.ledger.checkpoints import KEPT, Handover
from tasks.ledger.ledger import Ledger
from tests.core.test_checkpoints import saved


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return Ledger(tmp_path_factory.mktemp("ledger"))


@pytest.fixture
def run(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A stage's run in a store that counts as a server's."""
    monkeypatch.setattr(Ledger, "served", True)
    return ledger.open_stage("train_policy", tmp_path.name, None, {})


def files(ledger: Ledger, run: str, path: str | None = None) -> set[str]:
    found: set[str] = set()
    for entry in ledger.client.list_artifacts(run, path):
        found |= files(ledger, run, entry.path) if entry.is_dir else {entry.path}
    return found


def worked(ledger: Ledger, run: str, home: Path, steps: range) -> None:
    """Checkpoints after some steps, each of which goes out before the next."""
    handover = Handover(ledger, run, home)
    home.mkdir(exist_ok=True)
    handover.fetch()
    with handover.sending():
        for step in steps:
            with (home / "events.jsonl").open("a") as events:
                events.write(f"{step}\n")
            (home / "seconds").write_text(f"{step}.0")
            saved(handover.folder, step, {"rows": step})
            deadline = time.monotonic() + 60
            # Of this one only: older ones are being removed meanwhile.
            while not any(e.path.endswith(MARKER) for e in ledger.client.list_artifacts(run, f"checkpoints/checkpoint-{step}")):
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_another_machine_goes_on_from_the_newest_and_the_last_two_are_kept(ledger: Ledger, run: str, tmp_path: Path) -> None:
    worked(ledger, run, tmp_path / "one", range(8, 12))
    assert {path.split("/")[1] for path in files(ledger, run)} == {"checkpoint-10", "checkpoint-11"}
    other = tmp_path / "other"
    worked(ledger, run, other, range(12, 13))
    assert (other / "events.jsonl").read_text().split() == ["8", "9", "10", "11", "12"]
    assert {path.name for path in (other / "checkpoints").iterdir()} == {"checkpoint-11", "checkpoint-12"}
    assert len({path.split("/")[1] for path in files(ledger, run)}) == KEPT
    # The first machine takes up what the other has done since, and not what is older than its own.
    first = Handover(ledger, run, tmp_path / "one")
    first.fetch()
    assert last_complete(first.folder) == (first.folder / "checkpoint-12", {"rows": 12})
    assert (tmp_path / "one" / "seconds").read_text() == "12.0"
    first.discard()
    assert files(ledger, run) == set()


@pytest.mark.parametrize("spoil", ["marker", "weights"])
def test_what_did_not_arrive_whole_gives_way_to_the_one_before(spoil: str, ledger: Ledger, run: str, tmp_path: Path) -> None:
    worked(ledger, run, tmp_path / "one", range(1, 3))
    newest = Path(ledger.place(f"runs:/{run}/checkpoints").removeprefix("file://")) / "checkpoint-2"
    if spoil == "marker":
        (newest / MARKER).unlink()
    else:
        (newest / "weights").write_bytes(b"half")
    other = tmp_path / "other"
    other.mkdir()
    handover = Handover(ledger, run, other)
    handover.fetch()
    assert last_complete(handover.folder) == (handover.folder / "checkpoint-1", {"rows": 1})
    assert (other / "events.jsonl").read_text().split() == ["1"]


def test_a_local_ledger_has_no_checkpoints(ledger: Ledger, tmp_path: Path) -> None:
    run = ledger.open_stage("train_policy", "local", None, {})
    handover = Handover(ledger, run, tmp_path)
    with handover.sending():
        saved(handover.folder, 1, {})
    handover.discard()
    assert files(ledger, run) == set()
