"""`moslim up` and `down`: the whole service starts, serves this machine alone, and leaves no process when it is killed.

A flow that is asked for and a service that is stopped are seen in test_postgres.py.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows import profile as profiles
from flows.form import FromFile, FromProfile, form_of
from flows.service.up import MARK, STATE, bring_up, form_in, write_deployments
from moslim_core.errors import UserError
from moslim_core.settings import Settings
from tasks.surroundings.network import free_port
from tasks.surroundings.processes import own_name
from tests.flow.conftest import Moslim

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def family(work_dir: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(work_dir):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def ask(api: str, path: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{api}{path}", data, {"Content-Type": "application/json"}, method=method)
    deadline = time.monotonic() + 180
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.loads(response.read() or "null")
        except (urllib.error.HTTPError, TimeoutError) as error:
            # SQLite or the disk was busy: whoever asks Prefect's API has to ask again, as its own client does.
            if getattr(error, "code", 503) != 503 or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def completed(api: str, deployment: str, seconds: float) -> dict[str, Any]:
    """A flow run of a deployment, asked for now, that completes within so many seconds."""
    # The key: asked again after no answer came, it is still one flow run.
    run: dict[str, Any] = ask(api, f"/deployments/{deployment}/create_flow_run", {"idempotency_key": str(time.time_ns())})
    deadline = time.monotonic() + seconds
    while (run := ask(api, f"/flow_runs/{run['id']}"))["state_type"] in ("SCHEDULED", "PENDING", "RUNNING"):
        assert time.monotonic() < deadline, run
        time.sleep(1)
    assert run["state_type"] == "COMPLETED", run["state"]
    return run


@pytest.fixture
def work_dir(tmp_path: Path, prepared: Callable[[Path], Path]) -> Iterator[Path]:
    yield prepared(tmp_path)
    for process in family(tmp_path):
        process.kill()


def test_up_serves_every_flow_and_down_leaves_nothing(work_dir: Path, profile: Path, moslim: Moslim) -> None:
    up, port = ("up", "--profile", str(profile), "--set", f"work_dir={work_dir}"), free_port()
    result = moslim(*up, "--prefect-port", str(port))
    assert result.returncode == 0, result.stdout + result.stderr
    state = json.loads((work_dir / STATE).read_text())
    api = state["prefect"]
    assert api == f"http://127.0.0.1:{port}/api"

    found = ask(api, "/deployments/filter", {})
    assert {of["name"] for of in found if of["work_pool_name"] == "gpu"} == {"gpu"}
    deployments = {of["name"]: of for of in found if of["entrypoint"] != "flows.stage.stage"}
    flows = {"label", "train_reward", "train_policy", "evaluate", "align", "sample", "compare", "compare_systems", "retrain"}
    assert set(deployments) == flows
    (schedule,) = deployments["retrain"]["schedules"]
    assert schedule["schedule"]["cron"] and not schedule["active"]
    for of in deployments.values():
        assert of["description"] and "moslim" in of["tags"] and of["enforce_parameter_schema"]
        assert "Settings" in of["parameter_openapi_schema"]["definitions"]
        assert of["parameters"]["settings"]["work_dir"] == str(work_dir)
        assert of["parameters"]["settings"]["file"] == str(profile)
        assert of["global_concurrency_limit"]["limit"] == 1

    assert moslim(*up).returncode == 0
    for others, says in ((("--set", "policy.steps=9"), f"profile {profile}"), (("--prefect-port", str(port + 1)), f"prefect at {api}")):
        refused = moslim(*up, *others)
        assert refused.returncode == 2 and f"is up with {says}." in refused.stderr and "Traceback" not in refused.stderr
        assert refused.stderr.endswith(f"-m flows.cli down --work-dir {work_dir}\n")
    assert json.loads((work_dir / STATE).read_text()) == state, "what is up stays as it is"
    only_loopback_is_served(work_dir)

    os.kill(int(state["owner"].rsplit(":", 2)[1]), signal.SIGKILL)
    assert moslim("down", "--work-dir", str(work_dir)).returncode == 0
    assert family(work_dir) == [] and not any(psutil.pid_exists(pid) for pid in state["pids"].values())
    assert not (work_dir / STATE).exists()
    assert "nothing was running" in moslim("down", "--work-dir", str(work_dir)).stdout


def test_what_is_up_is_never_taken_for_what_is_asked_for_now(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The state file alone: nothing is started."""
    demo, changed = (profiles.load("demo", [f"work_dir={tmp_path}", f"policy.steps={steps}"]) for steps in (12, 9))
    servers = {"mlflow": "http://127.0.0.1:5000/#/experiments/1", "prefect": "http://127.0.0.1:4200/api"}

    def up(form: FromProfile | FromFile | Settings | None, settings: Settings, *ports: int | None) -> None:
        kept = {} if form is None else {"form": form_in(write_deployments(form))}
        (tmp_path / STATE).write_text(json.dumps({"owner": own_name(), **servers, "workers": ["cpu"], **kept}))
        bring_up(settings, "demo", *(ports or (None, None)))

    for form in (form_of(demo, "demo"), demo, None):
        up(form, demo)
        assert "http://127.0.0.1:4200\n" in capsys.readouterr().out
    up(None, changed)
    up(changed, changed, 5000, 4200)
    with pytest.raises(UserError, match=r"is up with policy\.steps=9\.\n.* down --work-dir "):
        up(changed, demo)
    with pytest.raises(UserError, match=r"is up with profile demo, mlflow at http://127\.0\.0\.1:5000/"):
        up(form_of(demo, "demo"), changed, 5001, 4200)


def only_loopback_is_served(work_dir: Path) -> None:
    """No process of the service listens where another machine could ask."""
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in family(work_dir)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert len(listening) >= 2 and {ip for ip, _ in listening} == {"127.0.0.1"}
    others = {a.address for of in psutil.net_if_addrs().values() for a in of if a.family == socket.AF_INET} - {"127.0.0.1"}
    for address in others:
        for _, port in listening:
            with pytest.raises(OSError), socket.create_connection((address, port), timeout=2):
                pass
