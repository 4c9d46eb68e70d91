"""The pipeline's own run in the ledger: parent of its stages, with their key numbers for MLflow's compare view."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from moslim_core.settings import Settings
from tasks.ledger.ledger import Ledger
from tasks.ledger.mlflow_pages import describe, link_within
from tasks.ledger.of_work_dir import ledger_of
from tasks.ledger.overview import headline_figures, stages_table
from tasks.ledger.references import Outcome, digest_of

SETTINGS = "settings.json"


def open_pipeline(settings: Settings, until: str, name: str, parent: str | None = None) -> str:
    """The parent run's id: that of an interrupted run with the same settings, else a new one called `name`, below `parent` if given."""
    ledger = ledger_of(settings.work_dir)
    ledger.reconcile()
    section = settings.content()
    run_id = ledger.open_pipeline(digest_of({"settings": section, "until": until}), name, section, parent)
    # MLflow's parameters are flat text, which it cuts.
    ledger.client.log_dict(run_id, section, SETTINGS)
    return run_id


def settings_of(ledger: Ledger, run_id: str) -> dict[str, Any]:
    """Those that a pipeline's run was opened with; empty where there is no such run, or it has none."""
    from mlflow.exceptions import MlflowException

    try:
        found: dict[str, Any] = json.loads(ledger.read(run_id, SETTINGS))
    except (MlflowException, OSError, ValueError):
        return {}
    return found


def close_pipeline(settings: Settings, run_id: str, status: str, outcomes: Mapping[str, Outcome]) -> None:
    """Record key numbers, the data, which stage run each result came from, and the end."""
    ledger = ledger_of(settings.work_dir)
    # By name the headline is before the rest: MLflow's charts and its compare page start with the first.
    numbers = headline_figures(settings, outcomes)
    for name, outcome in outcomes.items():
        numbers |= {f"stages/{name}/{figure}": value for figure, value in {"seconds": outcome.seconds, **outcome.metrics}.items()}
        ledger.client.set_tag(run_id, f"moslim.run.{name}", outcome.ref.run_id)
    ledger.log_points(run_id, [(0, dict(sorted(numbers.items())))])
    if "label" in outcomes:
        rows = outcomes["label"]
        ledger.log_dataset(run_id, _data_name(settings), rows.ref.digest[:8], rows.ref.uri, rows.metrics)
    if outcomes:
        describe(ledger, run_id, stages_table(outcomes, partial(link_within, ledger)))
    ledger.close(run_id, status)


def _data_name(settings: Settings) -> str:
    """The rated answers, as a person calls them: names of public sets, or of the user's file or folder."""
    path = settings.data.path
    return path.name if path is not None else ", ".join(settings.data.source)
