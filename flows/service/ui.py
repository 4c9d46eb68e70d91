"""`moslim ui`: MLflow and Prefect for one work directory, on loopback."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from flows.service.server import mlflow_server, prefect_server


def serve(work_dir: Path) -> None:
    """Print both addresses and serve until Ctrl-C."""
    try:
        with mlflow_server(work_dir) as (mlflow, page), prefect_server(work_dir) as api:
            typer.echo(f"MLflow   {page}")
            typer.echo(f"Prefect  {api.removesuffix('/api')}\nCtrl-C ends both.")
            while mlflow.poll() is None:
                time.sleep(0.5)
    except KeyboardInterrupt:
        typer.echo("stopped")
