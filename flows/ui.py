"""`moslim ui`: MLflow and Prefect for one work directory, on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import typer

from flows.server import free_port, prefect_server, stop, wait_until_healthy
from tasks.launcher import guarded


def serve(work_dir: Path) -> None:
    """Print both addresses and serve until Ctrl-C."""
    from tasks.stage import ledger_of

    ledger = ledger_of(work_dir)
    port = free_port()
    log = work_dir / "mlflow" / "server.log"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", ledger.uri, "--default-artifact-root", (work_dir / "mlflow" / "artifacts").as_uri(),
    ]  # fmt: skip
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with log.open("ab") as file:
        mlflow = subprocess.Popen(guarded(command), stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        with prefect_server(work_dir) as api:
            wait_until_healthy(f"http://127.0.0.1:{port}/health", mlflow, log, "the MLflow server")
            typer.echo(f"MLflow   http://127.0.0.1:{port}/#/experiments/{ledger.experiment_id}/runs")
            typer.echo(f"Prefect  {api.removesuffix('/api')}\nCtrl-C ends both.")
            while mlflow.poll() is None:
                time.sleep(0.5)
    except KeyboardInterrupt:
        typer.echo("stopped")
    finally:
        stop(mlflow)
