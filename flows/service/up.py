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
from pathlib import Path
from typing import Any

import psutil
import typer
import yaml
from filelock import FileLock

from flows.form import FromProfile, form_of
from flows.service.databases import check_databases
from flows.service.deploy import DEPLOYMENTS
from moslim_core.settings import Settings
from tasks.execution.launcher import LAST_LINES
from tasks.execution.processes import is_alive, is_here, pid_of

STATE, LOG, MARK = "up.json", "up.log", "MOSLIM_UP"
START_SECONDS, STOP_SECONDS = 300.0, 60.0


def bring_up(settings: Settings, profile: str) -> None:
    """Start all that is not up, and say where it is. Ends with code 1 if something does not start."""
    check_databases()
    work_dir = settings.work_dir
    with FileLock(str(work_dir / "up.lock")):
        state = running(work_dir)
        if state is None:
            _end(work_dir)
            file = write_deployments(form_of(settings, profile))
            state = _start(work_dir, file)
    typer.echo(f"MLflow   {state['mlflow']}\nPrefect  {state['prefect'].removesuffix('/api')}")
    typer.echo(f"workers of {', '.join(state['workers'])}, log {work_dir / LOG}\nend with: moslim down --work-dir {work_dir}")


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


def write_deployments(form: FromProfile | Settings) -> Path:
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
