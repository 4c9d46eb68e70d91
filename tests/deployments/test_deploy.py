"""docs/operations.md's command for several machines, against a real server; again it changes nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flows.deploy import LOST
from flows.server import prefect_server
from tests.flow.test_up import ask

ROOT = Path(__file__).parents[2]


@pytest.mark.integration
def test_every_flow_is_deployed_and_lost_runs_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    with prefect_server(tmp_path) as api:
        for _ in range(2):
            done = subprocess.run([sys.executable, "-m", "flows.deploy"], cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        found = ask(api, "/deployments/filter", {})
        automations = ask(api, "/automations/filter", {})
    flows = {of["name"]: of for of in found if of["entrypoint"] != "flows.stage.stage"}
    assert set(flows) == {"label", "train_reward", "train_policy", "evaluate", "align", "compare", "retrain"}
    assert flows["label"]["parameters"] == {"until": "label"}
    assert {of["name"]: of["work_pool_name"] for of in found if of["entrypoint"] == "flows.stage.stage"} == {"cpu": "cpu", "gpu": "gpu"}
    assert [of["name"] for of in automations] == [LOST]
