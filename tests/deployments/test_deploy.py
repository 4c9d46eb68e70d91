"""docs/operations.md's commands for several machines, against a real server: `prefect deploy --all` takes the file as it is."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.server import prefect_server
from tests.flow.test_up import ask

ROOT = Path(__file__).parents[2]


@pytest.mark.integration
def test_the_file_deploys_every_flow_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    commands = (
        "work-pool create cpu --type process",
        "work-pool create gpu --type process",
        "--no-prompt deploy --all --prefect-file deployments/prefect.yaml",
    )
    with prefect_server(tmp_path) as api:
        for command in commands:
            call = [sys.executable, "-m", "prefect", *command.split()]
            done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        found = {of["name"]: of for of in ask(api, "/deployments/filter", {})}
        # As a person who has put new rows at data.path would.
        emit = [sys.executable, "-m", "prefect", "event", "emit", "moslim.rows.labelled", "--resource-id", "moslim.rows"]
        deadline, runs = time.monotonic() + 120, []
        while not runs and time.monotonic() < deadline:
            # The server takes some seconds to know of a new trigger.
            subprocess.run(emit, check=True, capture_output=True)
            time.sleep(3)
            runs = ask(api, "/flow_runs/filter", {})
    assert set(found) == {"label", "train_reward", "train_policy", "evaluate", "align", "compare", "retrain"}
    assert found["label"]["parameters"] == {"settings": {"profile": "demo", "work_dir": "/work"}, "until": "label"}
    assert {run["deployment_id"] for run in runs} == {found["retrain"]["id"]}
