"""A process is known by what does not move: neither the clock, nor a number used again, nor a machine's new name mislead."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows.service import keeper
from tasks.ledger.ledger import OWNER, Ledger
from tasks.surroundings import processes
from tasks.surroundings.processes import birth, is_alive, is_here, lives, name_of, own_name, pid_of


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield Ledger(tmp_path_factory.mktemp("work"))


def later(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stepped by `seconds`, as processes that were there before and come after see it."""
    linux = psutil._pslinux  # type: ignore[attr-defined]
    booted = linux.boot_time()
    monkeypatch.setattr(linux, "boot_time", lambda: booted + seconds)
    monkeypatch.setattr(linux, "BOOT_TIME", booted + seconds, raising=False)


@pytest.mark.skipif(sys.platform != "linux", reason="psutil's clock is faked in its part for Linux")
@pytest.mark.parametrize("seconds", [5.0, -5.0, 86_400.0])
def test_a_clock_that_steps_ends_nobody(seconds: float, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ledger.open_pipeline("f" * 64, "align", {})
    before, name = psutil.Process().create_time(), own_name()
    with keeper.using(tmp_path):
        later(seconds, monkeypatch)
        assert abs(psutil.Process().create_time() - before) > 4, "the clock did step"
        assert own_name() == name and is_alive(name)
        assert keeper.in_use(tmp_path)
        ledger.reconcile()
    assert ledger.client.get_run(run).info.status == "RUNNING"
    assert not keeper.in_use(tmp_path)


def test_a_process_that_ended_does_not_live_even_before_it_is_waited_for() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = name_of(child.pid)
    assert is_here(name) and is_alive(name) and lives(child.pid) and pid_of(name) == child.pid
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(name) and not lives(child.pid), "a zombie"
    child.wait()
    assert not is_alive(name)


def test_a_number_used_again_is_another_process() -> None:
    *rest, born = own_name().split(":")
    assert not is_alive(":".join([*rest, str(int(born) - 1)]))


def test_what_can_not_be_seen_is_taken_to_be_alive() -> None:
    host, boot, container, pid, born = own_name().split(":")
    elsewhere = ":".join(["other", "another-boot", container, pid, "1"])
    assert is_alive(elsewhere) and not is_here(elsewhere)
    contained = ":".join([host, boot, "1", pid, "1"])
    assert is_alive(contained) and not is_here(contained)
    earlier = ":".join([host, "earlier-boot", container, pid, born])
    assert not is_alive(earlier) and not is_here(earlier)


def test_a_machine_may_be_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    name = own_name()
    if not name.split(":")[1]:
        pytest.skip("there is no /proc here")
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed")
    processes._place.cache_clear()
    try:
        assert is_here(name) and is_alive(name)
    finally:
        processes._place.cache_clear()


def test_without_proc_the_time_of_creation_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PROC", tmp_path)
    processes._place.cache_clear()
    try:
        name = own_name()
        assert name == f"{socket.gethostname()}:::{os.getpid()}:{psutil.Process().create_time():.0f}"
        assert is_here(name) and is_alive(name)
        assert birth(2**22 + 1) is None
    finally:
        processes._place.cache_clear()


def test_the_server_of_another_container_is_neither_used_nor_ended(tmp_path: Path) -> None:
    host, boot, _, pid, born = own_name().split(":")
    (tmp_path / "users").mkdir()
    (tmp_path / "users" / "other").write_text(f"{host}:{boot}:1:{pid}:{born}")
    keeper.record(tmp_path).write_text(f'{{"address": "http://127.0.0.1:1/api", "process": "{host}:{boot}:1:{pid}:{born}"}}')
    assert keeper.known(tmp_path) is None and not keeper.in_use(tmp_path)
    assert (tmp_path / "users" / "other").exists()


def test_runs_of_a_dead_process_are_closed(ledger: Ledger) -> None:
    run = ledger.open_pipeline("f" * 64, "align", {})
    *rest, born = own_name().split(":")
    for dead in (":".join([*rest, f"{born}0"]), f"{socket.gethostname()}:{os.getpid()}:1764300000"):
        ledger.client.update_run(run, status="RUNNING")
        ledger.client.set_tag(run, OWNER, dead)
        ledger.reconcile()
        assert ledger.client.get_run(run).info.status == "KILLED"
