"""Files that no test can run here are at least whole, and name what there is."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow

from flows.form import FromProfile
from tasks.execution.on_pool import FLOW

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deployments"


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return found


DEPLOYMENTS = read("prefect.yaml")["deployments"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=[of["name"] for of in DEPLOYMENTS])
def test_every_deployment_is_of_a_flow_and_gives_parameters_that_it_has(deployment: dict[str, Any]) -> None:
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(import_module(module), name)
    assert isinstance(flow, Flow)
    given = deployment.get("parameters", {})
    assert set(given) <= set(flow.parameters.properties)
    if flow.name == FLOW:
        # What the flow that starts a stage gives.
        assert set(flow.parameters.required) == {"settings", "name", "inputs", "parent"}
    else:
        assert set(flow.parameters.required) <= set(given)
        assert FromProfile.model_validate(given["settings"]).work_dir == Path("/work")
    assert deployment["work_pool"]["name"] in ("cpu", "gpu")


def test_compose_starts_what_its_services_wait_for_and_keeps_ports_on_loopback() -> None:
    compose = read("compose.yaml")
    services = compose["services"]
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        named = {volume.split(":")[0] for volume in service.get("volumes", [])}
        assert {volume for volume in named if not volume.startswith(".")} <= set(compose["volumes"]), name
        assert all((FOLDER / volume).is_file() for volume in named if volume.startswith(".")), name
    assert (ROOT / services["mlflow"]["build"]["dockerfile"]).is_file()


def test_the_image_copies_what_there_is() -> None:
    lines = (FOLDER / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert copied and all((ROOT / name).exists() for name in copied)


def test_the_kubernetes_worker_serves_the_pool_that_flows_are_deployed_to() -> None:
    job = read("kubernetes/gpu-worker.yaml")
    assert job["kind"] == "Job"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"][:5] == ["prefect", "worker", "start", "--pool", "gpu"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}


def test_workers_elsewhere_have_the_addresses_that_operations_tell() -> None:
    """What `export` sets on a machine of one's own, a Ray job and a Kubernetes Job have too."""
    told = {"PREFECT_API_URL", "MLFLOW_TRACKING_URI", "MOSLIM_WORK_DIR"}
    (container,) = read("kubernetes/gpu-worker.yaml")["spec"]["template"]["spec"]["containers"]
    assert told <= {variable["name"] for variable in container["env"]}
    variables = read("ray/gpu-worker.yaml")["env_vars"]
    assert told <= set(variables) and all(isinstance(value, str) for value in variables.values()), "Ray takes strings alone"
