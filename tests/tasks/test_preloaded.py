"""Workers are forks of one process: it is kept, replaced where the environment is another, and takes its worker along."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.execution import preloaded
from tasks.surroundings.environment import has_accelerator
from tests.tasks.test_launcher import job

pytestmark = pytest.mark.skipif(sys.platform != "linux" or has_accelerator(), reason="workers are forked on Linux without a GPU")


def forked(folder: Path, base: Path, stage: str = "label") -> preloaded.Forked:
    folder.mkdir()
    worker = preloaded.fork(job(folder, stage, base))
    assert worker is not None
    return worker


def gone(pid: int) -> bool:
    end = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.integration
def test_workers_share_a_process_until_the_environment_changes(tmp_path: Path, tiny_chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preloaded, "_surroundings", lambda: ({}, "here"))
    first = forked(tmp_path / "a", tiny_chat)
    server = psutil.Process(first.pid).ppid()
    # It works for one at a time; another job starts as a process of its own.
    assert preloaded.fork(tmp_path / "a" / "job.json") is None
    written = first.stdout.read().decode()
    assert first.wait(60) == first.poll() == 0, written
    second = forked(tmp_path / "b", tiny_chat, "train_reward")
    assert psutil.Process(second.pid).ppid() == server
    # Its inputs are missing, which is no UserError.
    assert b"Traceback" in second.stdout.read()
    assert second.wait(60) == 1
    monkeypatch.setattr(preloaded, "_surroundings", lambda: ({"A": "b"}, "here"))
    third = forked(tmp_path / "c", tiny_chat)
    assert psutil.Process(third.pid).ppid() != server
    assert gone(server)
    os.kill(psutil.Process(third.pid).ppid(), signal.SIGKILL)
    assert third.wait(60) == -signal.SIGKILL
    assert gone(third.pid)
    fourth = forked(tmp_path / "d", tiny_chat)
    fourth.stdout.read()
    assert fourth.wait(60) == 0
