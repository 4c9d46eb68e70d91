"""`moslim up` and `moslim down`: the whole service on one machine, without containers, on loopback.

`up` starts one supervisor (flows/service/supervisor.py) that starts the rest, and leaves it running; the rest dies with it. All processes
carry the work directory in their environment: that is how `down` finds what a killed supervisor left.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import typer
import yaml
from filelock import FileLock

from flows.cli.printed_commands import command
from flows.form import FromFile, FromProfile, form_of
from flows.service.databases import check_databases
from flows.service.deploy import DEPLOYMENTS
from flows.service.server import keep_ports
from moslim_core.errors import UserError
from moslim_core.settings import Settings
from tasks.execution.launcher import LAST_LINES
from tasks.ledger.parameters import flatten
from tasks.surroundings.processes import is_alive, is_here, pid_of

STATE, LOG, MARK = "up.json", "up.log", "MOSLIM_UP"
START_SECONDS, STOP_SECONDS = 300.0, 60.0
# Characters of a message that say how the service differs.
LONGEST = 200


def bring_up(settings: Settings, profile: str, mlflow_port: int | None, prefect_port: int | None) -> None:
    """Start all that is not up, and say where it is. Ends with code 1 if something does not start.

    Raises UserError where other settings or ports are up already, or a server can't listen at the port that was asked for.
    """
    check_databases()
    work_dir, form = settings.work_dir, form_of(settings, profile)
    with FileLock(str(work_dir / "up.lock")):
        state = running(work_dir)
        if state is None:
            _end(work_dir)
            keep_ports(work_dir, mlflow_port, prefect_port)
            state = _start(work_dir, write_deployments(form))
        elif others := [*_other_settings(state, form, settings), *_other_places(state, mlflow=mlflow_port, prefect=prefect_port)]:
            told = ", ".join(others)
            told = told if len(told) <= LONGEST else f"{told[: LONGEST - 1]}…"
            raise UserError(f"the service in {work_dir} is up with {told}.\nEnd it before you start it with others: {_down(work_dir)}")
    typer.echo(f"MLflow   {state['mlflow']}\nPrefect  {state['prefect'].removesuffix('/api')}")
    typer.echo(f"workers of {', '.join(state['workers'])}, log {work_dir / LOG}\nend with: {_down(work_dir)}")


def bring_down(work_dir: Path) -> None:
    """Stop all that `up` started in this work directory; nothing is left running."""
    with FileLock(str(work_dir / "up.lock")):
        count = _end(work_dir)
    typer.echo(f"stopped {count} processes" if count else "nothing was running")


def running(work_dir: Path) -> dict[str, Any] | None:
    """What stands in the state file, if its supervisor lives."""
    try:
        state: dict[str, Any] = json.loads((work_dir / STATE).read_text(encoding="utf-8"))
        return state if is_alive(str(state["owner"])) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _down(work_dir: Path) -> str:
    return command("down", "--work-dir", str(work_dir))


def _other_settings(state: Mapping[str, Any], form: FromProfile | FromFile | Settings, settings: Settings) -> list[str]:
    """What of the service's form is not as it would be filled in now, as `settings`. An earlier version's state does not say."""
    wanted = form.model_dump(mode="json")
    up = state.get("form", wanted)
    if up == wanted:
        return []
    if profile := up.get("profile") or up.get("file"):
        return [f"profile {profile}"]
    now = flatten(settings.dump())
    return [f"{key}={value!r}" for key, value in flatten(up).items() if now.get(key, value) != value]


def _other_places(state: Mapping[str, Any], **ports: int | None) -> list[str]:
    """The servers of the service that are not at the ports that were asked for."""
    return [f"{name} at {state[name]}" for name, port in ports.items() if port not in (None, urlsplit(state[name]).port)]


def write_deployments(form: FromProfile | FromFile | Settings) -> Path:
    """deployments/prefect.yaml with every form filled in so; returns the file, which is below the work directory."""
    content = yaml.safe_load(DEPLOYMENTS.read_text(encoding="utf-8"))
    for deployment in content["deployments"]:
        # A stage's settings come with it.
        if "settings" in deployment.get("parameters", {}):
            deployment["parameters"]["settings"] = form.model_dump(mode="json")
    file = form.work_dir / "prefect" / "prefect.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def form_in(deployments: Path) -> dict[str, Any]:
    """What `write_deployments` has filled in, as JSON data."""
    content = yaml.safe_load(deployments.read_text(encoding="utf-8"))
    filled_in = (deployment.get("parameters", {}) for deployment in content["deployments"])
    form: dict[str, Any] = next(parameters["settings"] for parameters in filled_in if "settings" in parameters)
    return form


def _start(work_dir: Path, deployments: Path) -> dict[str, Any]:
    log = work_dir / LOG
    # No standing server of another owner: all of it lives and dies together.
    environment = {**{k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}, MARK: str(work_dir)}
    with log.open("ab") as file:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "flows.service.supervisor", str(work_dir), str(deployments)],
            stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + START_SECONDS
    while supervisor.poll() is None and time.monotonic() < deadline:
        if state := running(work_dir):
            return state
        time.sleep(0.2)
    _end(work_dir)
    typer.echo(
        f"error: not everything started (log: {log}):\n"
        + "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]),
        err=True,
    )
    raise typer.Exit(1)


def _end(work_dir: Path) -> int:
    """Ask the supervisor to stop everything, then end what is left. Returns how many processes there were."""
    processes = _family(work_dir)
    state = running(work_dir)
    if state is not None and is_here(state["owner"]):
        supervisor = psutil.Process(pid_of(state["owner"]))
        supervisor.terminate()
        psutil.wait_procs([supervisor], timeout=STOP_SECONDS)
    for process in _family(work_dir):
        process.kill()
    psutil.wait_procs(processes, timeout=STOP_SECONDS)
    (work_dir / STATE).unlink(missing_ok=True)
    return len(processes)


def _family(work_dir: Path) -> list[psutil.Process]:
    family = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(work_dir):
                family.append(process)
        except (psutil.Error, OSError):
            continue
    return family
