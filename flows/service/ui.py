"""`moslim ui`: MLflow and Prefect for one work directory, on loopback."""

from __future__ import annotations

import os
import time
from pathlib import Path

import typer

from flows.service.server import keep_ports, mlflow_server, prefect_server
from moslim_core.errors import UserError


def serve(work_dir: Path, mlflow_port: int | None, prefect_port: int | None) -> None:
    """Print both addresses and serve until Ctrl-C. Raises UserError where a server can't listen at the port that was asked for."""
    if prefect_port is not None and os.environ.get("PREFECT_API_URL"):
        raise UserError(
            f"--prefect-port {prefect_port}: PREFECT_API_URL names a Prefect server, and none is started.\nLeave out one of them."
        )
    keep_ports(work_dir, mlflow_port, prefect_port)
    try:
        with mlflow_server(work_dir) as (mlflow, page), prefect_server(work_dir) as api:
            typer.echo(f"MLflow   {page}")
            typer.echo(f"Prefect  {api.removesuffix('/api')}\nCtrl-C ends both.")
            while mlflow.poll() is None:
                time.sleep(0.5)
    except KeyboardInterrupt:
        typer.echo("stopped")
