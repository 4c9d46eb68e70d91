"""What a worker's machine brings to a flow, and what becomes of a flow whose worker is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moslim_core.preferences import Preference, PreferenceSchema
from moslim_core.settings import Settings
from tasks import environment, hosted

FLOW = """
import signal, sys, time
from tasks.hosted import prepared
from tests.tasks.test_hosted import SETTINGS
signal.signal(signal.SIGTERM, lambda *_: (print("stopped", flush=True), sys.exit(0)))
prepared(SETTINGS)
print("started", flush=True)
time.sleep(120)
"""
# What a worker does: it starts the flow, here with its own standard output, and waits.
WORKER = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
SETTINGS = Settings(preferences=PreferenceSchema((Preference(name="warmth", levels=("cold", "warm")),)), work_dir=Path("elsewhere"))


def test_a_workers_own_work_directory_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hosted.WORK_DIR, str(tmp_path / "machine"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hosted, "_end_after", lambda worker: None)
    # The libraries' places in this process's own environment stay as they are.
    monkeypatch.setattr(environment, "prepare", lambda work_dir: work_dir.absolute())
    assert hosted.prepared(SETTINGS).work_dir == tmp_path / "elsewhere", "no worker started this process"
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "x")
    assert hosted.prepared(SETTINGS).work_dir == tmp_path / "machine"
    monkeypatch.delenv(hosted.WORK_DIR)
    assert hosted.prepared(SETTINGS).work_dir == tmp_path / "elsewhere"


def test_a_flow_is_stopped_and_can_say_so_when_its_worker_is_killed(tmp_path: Path) -> None:
    variables = {**os.environ, "PREFECT__FLOW_RUN_ID": "x", hosted.WORK_DIR: str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", WORKER, FLOW], env=variables, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "started\n"
        worker.kill()
        assert worker.stdout.readline() == "stopped\n"
