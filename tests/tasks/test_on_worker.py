"""What a worker's machine brings to a flow, and what becomes of a flow whose worker is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.service.server import prefect_server
from moslim_core.preferences import Preference, PreferenceSchema
from moslim_core.settings import Settings
from tasks.ledger.ledger import Ledger
from tasks.surroundings import environment, on_worker
from tests.flow.test_up import ask

FLOW = """
import signal, sys, time
from tasks.surroundings.on_worker import prepared
from tests.tasks.test_on_worker import SETTINGS
signal.signal(signal.SIGTERM, lambda *_: (print("stopped", flush=True), sys.exit(0)))
prepared(SETTINGS)
print("started", flush=True)
time.sleep(120)
"""
# What a worker does: it starts the flow, here with its own standard output, and waits.
WORKER = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
MAKER = """
import sys, time
from tasks.surroundings.on_worker import making
with making("0123456789abcdef"):
    print("started", time.time(), flush=True)
    time.sleep(2)
    print("ended", time.time(), flush=True)
"""
SETTINGS = Settings(preferences=PreferenceSchema((Preference(name="warmth", levels=("cold", "warm")),)), work_dir=Path("elsewhere"))


def test_a_workers_own_work_directory_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(on_worker.WORK_DIR, str(tmp_path / "machine"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(on_worker, "_end_after", lambda worker: None)
    # The libraries' places in this process's own environment stay as they are.
    monkeypatch.setattr(environment, "prepare", lambda work_dir: work_dir.absolute())
    assert on_worker.prepared(SETTINGS).work_dir == tmp_path / "elsewhere", "no worker started this process"
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "x")
    assert on_worker.prepared(SETTINGS).work_dir == tmp_path / "machine"
    monkeypatch.delenv(on_worker.WORK_DIR)
    assert on_worker.prepared(SETTINGS).work_dir == tmp_path / "elsewhere"


def test_a_flow_is_stopped_and_can_say_so_when_its_worker_is_killed(tmp_path: Path) -> None:
    variables = {**os.environ, "PREFECT__FLOW_RUN_ID": "x", on_worker.WORK_DIR: str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", WORKER, FLOW], env=variables, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "started\n"
        worker.kill()
        assert worker.stdout.readline() == "stopped\n"


@pytest.fixture(scope="module")
def api(prepared: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with prefect_server(prepared(tmp_path_factory.mktemp("prefect"))) as address:
        yield address


@pytest.mark.integration
def test_two_machines_take_turns_for_one_output(api: str) -> None:
    variables = {**os.environ, "PREFECT__FLOW_RUN_ID": "x", "PREFECT_API_URL": api}
    at_work = [subprocess.Popen([sys.executable, "-c", MAKER], env=variables, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=120)[0].split() for process in at_work]
    (first_start, first_end), (second_start, second_end) = sorted((float(of[1]), float(of[3])) for of in told)
    assert first_start < first_end <= second_start < second_end
    assert ask(api, "/v2/concurrency_limits/filter", {}) == [], "no limit is left behind"


@pytest.mark.integration
def test_a_run_whose_flow_ended_on_another_machine_is_closed(api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process can't be looked up from here; the next flow, on whatever machine, finds out by Prefect."""
    flow = ask(api, "/flows/", {"name": "align"})["id"]
    states = ("RUNNING", "CRASHED")
    flow_runs = {s: ask(api, "/flow_runs/", {"flow_id": flow, "state": {"type": s}})["id"] for s in states}
    ledger, opened = Ledger(tmp_path), {}
    for state, flow_run in flow_runs.items():
        monkeypatch.setenv(on_worker.FLOW_RUN, flow_run)
        opened[state] = ledger.open_stage("label", state, None, {})
        ledger.client.set_tag(opened[state], "moslim.owner", "elsewhere:1:1")

    def statuses() -> list[str]:
        return [ledger.client.get_run(opened[state]).info.status for state in states]

    monkeypatch.delenv(on_worker.FLOW_RUN)
    ledger.reconcile()
    assert statuses() == ["RUNNING", "RUNNING"], "no worker started this process, which may have another Prefect"
    monkeypatch.setenv(on_worker.FLOW_RUN, flow_runs["RUNNING"])
    with temporary_settings({PREFECT_API_URL: api}):
        ledger.reconcile()
    assert statuses() == ["RUNNING", "KILLED"]
