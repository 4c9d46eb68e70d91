"""Three machines on one: servers, and workers of `cpu` and `gpu` with work directories of their own, which are lost while they train."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from flows import profile as profiles
from flows.service.deploy import LOST
from flows.service.server import LEASES, free_port, wait_until_healthy
from tests.flow.conftest import environment
from tests.flow.test_up import ask

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

# Of the policy: long enough to be disturbed on the way.
STEPS = 80
# The time is the test here: the servers are gone for so long, while the training goes on.
AWAY_SECONDS = 60.0
STAGES = ("label", "train_reward", "train_policy", "evaluate", "report")
MARK = "MOSLIM_TEST_SERVICE"
WAITING = ("SCHEDULED", "PENDING", "RUNNING", "CANCELLING")


def until(condition: Callable[[], Any], what: str, seconds: float = 240) -> Any:
    """What `condition` returns once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return found


class Service:
    """MLflow and Prefect on loopback, and workers. A flow run is asked for as Prefect's page asks for it."""

    def __init__(self, folder: Path, profile: Path) -> None:
        self.folder = folder
        self.ports = {name: free_port() for name in ("mlflow", "prefect")}
        self.api, self.store = f"http://127.0.0.1:{self.ports['prefect']}/api", f"http://127.0.0.1:{self.ports['mlflow']}"
        self.environment = {
            **environment(folder),
            MARK: str(folder),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": self.api,
            "MLFLOW_TRACKING_URI": self.store,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            **LEASES,
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "DO_NOT_TRACK": "true",
        }
        self.settings = profiles.load(str(profile), [f"policy.steps={STEPS}", "placement=pools", "work_dir=/dev/null/nowhere"]).dump()
        self.workers = 0
        self.servers: dict[str, subprocess.Popen[bytes]] = {}
        self.client = MlflowClient(self.store)

    def start(self, *names: str) -> None:
        commands = {
            "mlflow": [
                "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.ports["mlflow"]), "--workers", "1",
                "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--artifacts-destination", f"{self.folder}/artifacts",
            ],
            "prefect": ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.ports["prefect"])],
        }  # fmt: skip
        self.servers |= {name: self._spawn(name, commands[name]) for name in names}
        for name in names:
            url = f"{self.api if name == 'prefect' else self.store}/health"
            wait_until_healthy(url, self.servers[name], self.folder / f"{name}.log", name)

    def stop(self, *names: str) -> None:
        for name in names:
            lose(psutil.Process(self.servers[name].pid))

    def deploy(self) -> None:
        subprocess.run([sys.executable, "-m", "flows.service.deploy"], check=True, env=self.environment, capture_output=True)

    def worker(self, pool: str) -> psutil.Process:
        """A worker on a machine of its own: no file of another one is below its work directory."""
        self.workers += 1
        own = {
            "MOSLIM_WORK_DIR": str(self.folder / f"work{self.workers}"),
            "PREFECT_HOME": str(self.folder / f"home{self.workers}"),
            "CUDA_VISIBLE_DEVICES": str(self.workers),
        }
        command = ["prefect", "worker", "start", "--pool", pool, "--type", "process"]
        return psutil.Process(self._spawn(f"worker{self.workers}", command, own).pid)

    def _spawn(self, name: str, command: list[str], own: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**self.environment, **(own or {})},
            )  # fmt: skip

    def align(self, until: str = "report", seed: int = 0) -> str:
        """The id of a new flow run of the deployment `align`."""
        deployment = ask(self.api, "/deployments/name/align/align")["id"]
        parameters = {"settings": {**self.settings, "seed": seed}, "until": until}
        return str(ask(self.api, f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"])

    def completed(self, flow_run: str) -> None:
        """Wait until the flow run is completed. Nothing that runs then is left in either server."""
        ended = until(lambda: self.ended(flow_run), "the flow run ends", 420)
        assert ended["state_type"] == "COMPLETED", (ended["state"], self.logs())
        self.settled()
        assert [run.data.tags for run in self.runs() if run.info.status == "RUNNING"] == []

    def settled(self) -> None:
        """Wait until no flow run is left running."""
        running = {"flow_runs": {"state": {"type": {"any_": list(WAITING)}}}}
        until(lambda: not ask(self.api, "/flow_runs/filter", running), "no flow run is left running", 60)

    def ended(self, flow_run: str) -> dict[str, Any] | None:
        found: dict[str, Any] = ask(self.api, f"/flow_runs/{flow_run}")
        return None if found["state_type"] in WAITING else found

    def logs(self) -> str:
        lines = ask(self.api, "/logs/filter", {"sort": "TIMESTAMP_DESC", "limit": 40})
        return "\n".join(f"{line['timestamp']} {line['message']}" for line in reversed(lines))

    def runs(self, stage: str | None = None) -> list[Run]:
        """The runs of all stages or one, the newest first."""
        experiment = self.client.get_experiment_by_name("moslim")
        where = f"tags.`moslim.stage` = '{stage}'" if stage else ""
        return list(self.client.search_runs([experiment.experiment_id], where, order_by=["attributes.start_time DESC"]))

    def files(self, run: str, path: str | None = None) -> set[str]:
        found: set[str] = set()
        for entry in self.client.list_artifacts(run, path):
            found |= self.files(run, entry.path) if entry.is_dir else {entry.path}
        return found

    def curve(self, run: str) -> dict[str, dict[int, float]]:
        """{metric: {step: value}} of what does not depend on how fast the machine is. Every step is there once."""
        curves = {}
        for key in self.client.get_run(run).data.metrics:
            if not key.startswith(("seconds", "tokens_per_second", "peak_memory")):
                points = self.client.get_metric_history(run, key)
                assert len({point.step for point in points}) == len(points), key
                curves[key] = {point.step: point.value for point in points}
        return curves


@pytest.fixture(scope="module")
def service(profile: Path, prepared: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Servers with everything deployed."""
    folder = prepared(tmp_path_factory.mktemp("service"))
    made = Service(folder, profile)
    try:
        made.start("mlflow", "prefect")
        made.deploy()
        yield made
    finally:
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(folder):
                    process.kill()
            except (psutil.Error, OSError):
                continue


def require_all_in_the_ledger(service: Service, stages: tuple[str, ...]) -> tuple[str, dict[str, Run]]:
    """(the last pipeline's run, its stages' runs): made on the machines of their pools, and the ledger's server has all of them."""
    pipeline = service.runs("pipeline")[0].info.run_id
    found = {r.data.tags["moslim.stage"]: r for r in service.runs() if r.data.tags.get("mlflow.parentRunId") == pipeline}
    assert set(found) == set(stages)
    for stage, run in found.items():
        assert run.info.status == "FINISHED"
        assert "output/stage.json" in service.files(run.info.run_id)
        assert f"outcomes/{stage}.json" in service.files(pipeline)
    pools = {run["name"]: run["work_pool_name"] for run in ask(service.api, "/flow_runs/filter", {}) if run["name"] in stages}
    assert pools == {stage: "gpu" if stage.startswith("train") else "cpu" for stage in stages}
    assert not list(service.folder.glob("work*/mlflow/mlflow.db")), "every worker's ledger is the server"
    return pipeline, found


@pytest.fixture(scope="module")
def undisturbed(service: Service) -> dict[str, dict[int, float]]:
    """What training logs when nothing happens, with a worker of `cpu` that stays. The whole path is looked at."""
    service.worker("cpu")
    worker = service.worker("gpu")
    service.completed(service.align())
    lose(worker)
    pipeline, found = require_all_in_the_ledger(service, STAGES)
    assert "report.html" in service.files(pipeline)
    assert not any(file.startswith("checkpoints/") for file in service.files(found["train_policy"].info.run_id))
    tables = ask(service.api, "/artifacts/filter", {"artifacts": {"key": {"any_": ["controllability"]}}})
    assert "length" in tables[0]["data"]
    curve = service.curve(found["train_policy"].info.run_id)
    assert set(curve["reward"]) == set(range(1, STEPS + 1))
    return curve


def test_every_flow_is_deployed_and_lost_runs_are_looked_for(service: Service) -> None:
    """Before there is a worker. What this leaves on the server is in nobody's way."""
    service.deploy()
    found = ask(service.api, "/deployments/filter", {})
    flows = {of["name"]: of for of in found if of["entrypoint"] != "flows.stage.stage"}
    assert set(flows) == {"label", "train_reward", "train_policy", "evaluate", "align", "compare", "compare_systems", "retrain", "sample"}
    assert flows["label"]["parameters"] == {"settings": {"profile": "demo", "work_dir": "/work"}, "until": "label"}
    assert {of["name"]: of["work_pool_name"] for of in found if of["entrypoint"] == "flows.stage.stage"} == {"cpu": "cpu", "gpu": "gpu"}
    automations = ask(service.api, "/automations/filter", {})
    assert [of["name"] for of in automations].count(LOST) == 1

    # As a person who has put new rows at data.path would.
    emit = [sys.executable, "-m", "prefect", "event", "emit", "moslim.rows.labelled", "--resource-id", "moslim.rows"]

    def runs() -> Any:
        subprocess.run(emit, check=True, env=service.environment, capture_output=True)
        # The server takes some seconds to know of a new trigger.
        time.sleep(3)
        return ask(service.api, "/flow_runs/filter", {})

    retrain = flows["retrain"]["id"]
    assert {run["deployment_id"] for run in until(runs, "rows that were labelled start a retraining", 120)} == {retrain}
    ask(service.api, f"/deployments/{retrain}", method="DELETE")
    for run in ask(service.api, "/flow_runs/filter", {}):
        ask(service.api, f"/flow_runs/{run['id']}", method="DELETE")


def test_stages_run_on_their_pools_and_hand_over_through_the_ledger(service: Service) -> None:
    """Two stages are enough: one of each pool, and the second reads what the first has made."""
    workers = [service.worker(pool) for pool in ("cpu", "gpu")]
    service.completed(service.align("train_reward", seed=1))
    for worker in workers:
        lose(worker)
    require_all_in_the_ledger(service, ("label", "train_reward"))


def test_compared_systems_train_side_by_side_where_there_are_workers(service: Service) -> None:
    workers = [service.worker(pool) for pool in ("cpu", "gpu", "gpu")]
    deployment = ask(service.api, "/deployments/name/compare_systems/compare_systems")["id"]
    settings = {**service.settings, "policy": {**service.settings["policy"], "steps": 20}}
    parameters = {"settings": settings, "baselines": ["rlphf", "rewarded_soups"], "seeds": [0]}
    service.completed(str(ask(service.api, f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"]))
    for worker in workers:
        lose(worker)
    times = {
        run["name"]: (run["start_time"], run["end_time"])
        for run in ask(service.api, "/flow_runs/filter", {})
        if run["name"].startswith("compared_")
    }
    assert set(times) == {"compared_prompt_only", "compared_rlphf", "compared_rewarded_soups"}
    (one, ended), (other, other_ended) = times["compared_rlphf"], times["compared_rewarded_soups"]
    assert max(one, other) < min(ended, other_ended), "both worked at the same time"
    assert times["compared_prompt_only"][1] < min(one, other), "the starting model's front comes first"
    comparison = service.runs("comparison")[0].info.run_id
    assert {"compare.html", "compare.json"} <= service.files(comparison)


def lose(worker: psutil.Process, how: int = signal.SIGKILL, flows_too: bool = True) -> None:
    """End a worker, and what it started too if `flows_too`."""
    family = worker.children(recursive=True) if flows_too else []
    for process in [worker, *family]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(how)
    psutil.wait_procs([worker, *family], timeout=60)


def train_again(service: Service) -> tuple[str, str]:
    """(flow run, MLflow run) of a training whose first checkpoint has just reached the ledger: as if it had not been trained before."""
    for run in service.runs("train_policy"):
        service.client.delete_run(run.info.run_id)
    flow_run = service.align()

    def sent() -> str | None:
        assert (over := service.ended(flow_run)) is None, (over, service.logs())
        for run in service.runs("train_policy"):
            assert run.info.status == "RUNNING", "the training ended before it could be disturbed"
            if any(file.endswith("/complete.json") for file in service.files(run.info.run_id, "checkpoints")):
                return str(run.info.run_id)
        return None

    return flow_run, until(sent, "a checkpoint reaches the ledger")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("how", "flows_too"),
    [
        pytest.param(signal.SIGKILL, False, id="kill -9"),
        pytest.param(signal.SIGTERM, False, id="SIGTERM"),
        pytest.param(signal.SIGKILL, True, id="power loss"),
    ],
)
def test_another_worker_goes_on_where_one_was_lost(
    how: int, flows_too: bool, service: Service, undisturbed: dict[str, dict[int, float]]
) -> None:
    worker = service.worker("gpu")
    flow_run, run = train_again(service)
    lose(worker, how, flows_too)
    taking_over = service.worker("gpu")
    service.completed(flow_run)
    lose(taking_over)
    (finished,) = service.runs("train_policy")
    assert finished.info.run_id == run and finished.info.status == "FINISHED"
    assert service.curve(run) == undisturbed
    assert not any(file.startswith("checkpoints/") for file in service.files(run))
    stages = ask(service.api, "/flow_runs/filter", {"flow_runs": {"name": {"any_": ["train_policy"]}}, "sort": "START_TIME_DESC"})
    assert [of["state_type"] for of in stages[:2]] == ["COMPLETED", "CRASHED"]


@pytest.mark.faults
def test_servers_that_are_away_cost_a_training_nothing(service: Service, undisturbed: dict[str, dict[int, float]]) -> None:
    worker = service.worker("gpu")
    flow_run, run = train_again(service)
    held = ask(service.api, f"/flow_runs/{flow_run}")["state"]["state_details"]["deployment_concurrency_lease_id"]
    service.stop("mlflow", "prefect")
    time.sleep(AWAY_SECONDS)
    service.start("mlflow", "prefect")
    # Prefect renews it every 225 seconds, and ends the flow run if it can't.
    ask(service.api, f"/v2/concurrency_limits/leases/{held}/renew", {"lease_duration": 300})
    service.completed(flow_run)
    lose(worker)
    assert service.curve(run) == undisturbed
    stages = ask(service.api, "/flow_runs/filter", {"flow_runs": {"name": {"any_": ["train_policy"]}}, "sort": "START_TIME_DESC"})
    assert stages[0]["state_type"] == "COMPLETED" and stages[0]["run_count"] == 1


@pytest.mark.faults
def test_what_is_cancelled_in_the_page_stops_and_can_go_on(service: Service, undisturbed: dict[str, dict[int, float]]) -> None:
    worker = service.worker("gpu")
    flow_run, run = train_again(service)
    at_work = worker.children(recursive=True)
    assert ask(service.api, f"/flow_runs/{flow_run}/set_state", {"state": {"type": "CANCELLING"}})["status"] == "ACCEPT"
    gone, left = psutil.wait_procs(at_work, timeout=45)
    assert gone and not left
    until(lambda: service.ended(flow_run), "the flow run ends", 60)
    service.settled()
    newest = {of["name"]: of["state_type"] for of in ask(service.api, "/flow_runs/filter", {"sort": "START_TIME_ASC"})}
    assert (service.ended(flow_run) or {})["state_type"] == newest["train_policy"] == "CANCELLED"
    until(lambda: all(r.info.status != "RUNNING" for r in service.runs()), "no MLflow run is left running", 30)
    assert service.client.get_run(run).info.status == "KILLED"

    service.completed(service.align())
    lose(worker)
    assert service.client.get_run(run).info.status == "FINISHED"
    assert service.curve(run) == undisturbed
