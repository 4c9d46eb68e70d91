"""The servers of a work directory, on loopback and gone with who uses them: MLflow's page, and one Prefect server for all.

Each listens where it did before, if that is free: bookmarks and links to its pages, as runs leave them, stay good.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from flows.service import keeper
from moslim_core.errors import UserError
from tasks.execution.launcher import guarded, stop
from tasks.ledger.ledger import DATABASE
from tasks.ledger.mlflow_pages import PAGE, kept_port, note_port, runs_page
from tasks.surroundings.network import bound, free_port
from tasks.surroundings.processes import is_alive, name_of, pid_of

START_SECONDS = 120.0
DRAIN_SECONDS = 10.0
END_SECONDS = 20.0
# Lines of a server's log in which the reason is looked for that it did not start.
LOOKED_AT = 60
# In memory, as is the default, leases of concurrency limits end with the server, and Prefect then ends the flows that hold them.
LEASES = {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem"}


@contextlib.contextmanager
def prefect_server(work_dir: Path) -> Iterator[str]:
    """The API's address. PREFECT_API_URL wins; else the server of this work directory, started here if none is alive.

    It serves all commands of the work directory, and ends with the last of them.
    """
    configured = os.environ.get("PREFECT_API_URL")
    if configured:
        yield configured
        return
    home = work_dir / "prefect"
    home.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as use:
        with keeper.lock(home):
            use.enter_context(keeper.using(home))
            address = _alive(home) or _start(home)
        os.environ["PREFECT_API_URL"] = address
        try:
            yield address
        finally:
            _drain()
            del os.environ["PREFECT_API_URL"]
            with keeper.lock(home):
                use.close()
                if not keeper.in_use(home):
                    _end(home)


@contextlib.contextmanager
def mlflow_server(work_dir: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server of this work directory's ledger, started here: (its process, the address of its page)."""
    from tasks.ledger.of_work_dir import ledger_of

    ledger = ledger_of(work_dir)
    port = free_port(kept_port(ledger.home))
    log = ledger.home / "server.log"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--default-artifact-root", (work_dir / "mlflow" / "artifacts").as_uri(),
    ]  # fmt: skip
    # Not on the command line, which everyone on this machine can read.
    environment = {**os.environ, DATABASE: ledger.uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with log.open("ab") as file:
        process = subprocess.Popen(guarded(command), stdout=file, stderr=subprocess.STDOUT, env=environment)
    note_port(ledger.home, port)
    address = f"http://127.0.0.1:{port}"
    os.environ[PAGE] = address
    try:
        wait_until_healthy(f"{address}/health", process, log, "the MLflow server")
        yield process, runs_page(address, ledger.experiment_id)
    finally:
        stop(process)
        del os.environ[PAGE]


def keep_ports(work_dir: Path, mlflow: int | None, prefect: int | None) -> None:
    """Let the servers of this work directory listen at these loopback ports from now on; None leaves one as it is.

    Raises UserError, before it changes anything, where a server can't listen there.
    """
    asked = {name: port for name, port in (("mlflow", mlflow), ("prefect", prefect)) if port is not None}
    if not asked:
        return
    homes = {name: work_dir / name for name in ("mlflow", "prefect")}
    for home in homes.values():
        home.mkdir(parents=True, exist_ok=True)
    wanted = {asked.get(name) or kept_port(home) for name, home in homes.items()}
    if len(wanted) < len(homes):
        raise UserError(f"MLflow and Prefect can't both listen at port {wanted.pop()}.\nGive each its own: --mlflow-port, --prefect-port.")
    for name, port in asked.items():
        _require_port(homes[name], name, port)
    for name, port in asked.items():
        note_port(homes[name], port)


def _require_port(home: Path, name: str, port: int) -> None:
    """Raises UserError where the server in `home` is up elsewhere, or can't listen at `port`."""
    address = _alive(home)
    if address is None:
        try:
            bound("127.0.0.1", port).close()
        except OSError as error:
            raise UserError(
                f"--{name}-port {port}: nothing can listen there ({error.strerror}).\nGive another, or leave it out for one that is free."
            ) from error
    elif urlsplit(address).port != port:
        raise UserError(f"--{name}-port {port}: other commands use the server at {address}.\nEnd them, or leave the option out.")


def _drain() -> None:
    """Send what Prefect still holds of logs and events: without its server it would try for more than a minute at exit."""
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for queue in (APILogWorker, EventsWorker):
        queue.drain_all(timeout=DRAIN_SECONDS)


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path, what: str) -> None:
    """Return once `url` answers. Raises UserError with what the log says last if the process dies or the time is up."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if _answers(url):
            return
        time.sleep(0.1)
    stop(process)
    told = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()][-LOOKED_AT:]
    reasons = [line for line in told if re.match(r"[\w.]+(Error|Exception): ", line)] or told or ["it says nothing"]
    raise UserError(f"{what} did not start: {reasons[-1][:300]}\nThe whole log: {log}\nMend that, and run again.")


def _start(home: Path) -> str:
    port = free_port(kept_port(home))
    log = home / "server.log"
    environment = {
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
        **os.environ,
        "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": str(home),
        **LEASES,
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("ab") as file:
        # Its own session: Ctrl-C reaches the run alone, which still has a state to report before it stops the server.
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.service.keeper", str(home), *command],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    note_port(home, port)
    address = f"http://127.0.0.1:{port}/api"
    wait_until_healthy(f"{address}/health", process, log, "the Prefect server")
    keeper.record(home).write_text(json.dumps({"address": address, "process": name_of(process.pid)}), encoding="utf-8")
    return address


def _end(home: Path) -> None:
    """The recorded server, if it lives here."""
    recorded = keeper.known(home)
    if recorded is None:
        return
    _, process = recorded
    keeper.record(home).unlink(missing_ok=True)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid_of(process), signal.SIGTERM)
    deadline = time.monotonic() + END_SECONDS
    while is_alive(process) and time.monotonic() < deadline:
        time.sleep(0.1)


def _alive(home: Path) -> str | None:
    recorded = keeper.known(home)
    return recorded[0] if recorded is not None and _answers(f"{recorded[0]}/health") else None


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False
