"""docs/operations.md's command for several machines, against a real server; again it changes nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.deploy import LOST
from flows.server import prefect_server
from tests.flow.test_up import ask

ROOT = Path(__file__).parents[2]


@pytest.mark.integration
def test_every_flow_is_deployed_and_lost_runs_are_looked_for(
    tmp_path: Path, prepared: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    with prefect_server(prepared(tmp_path)) as api:
        for _ in range(2):
            done = subprocess.run([sys.executable, "-m", "flows.deploy"], cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        found = ask(api, "/deployments/filter", {})
        automations = ask(api, "/automations/filter", {})
        # As a person who has put new rows at data.path would.
        emit = [sys.executable, "-m", "prefect", "event", "emit", "moslim.rows.labelled", "--resource-id", "moslim.rows"]
        deadline, runs = time.monotonic() + 120, []
        while not runs and time.monotonic() < deadline:
            # The server takes some seconds to know of a new trigger.
            subprocess.run(emit, check=True, capture_output=True)
            time.sleep(3)
            runs = ask(api, "/flow_runs/filter", {})
    flows = {of["name"]: of for of in found if of["entrypoint"] != "flows.stage.stage"}
    assert set(flows) == {"label", "train_reward", "train_policy", "evaluate", "align", "compare", "compare_systems", "retrain"}
    assert flows["label"]["parameters"] == {"settings": {"profile": "demo", "work_dir": "/work"}, "until": "label"}
    assert {of["name"]: of["work_pool_name"] for of in found if of["entrypoint"] == "flows.stage.stage"} == {"cpu": "cpu", "gpu": "gpu"}
    assert [of["name"] for of in automations].count(LOST) == 1
    assert {run["deployment_id"] for run in runs} == {flows["retrain"]["id"]}
