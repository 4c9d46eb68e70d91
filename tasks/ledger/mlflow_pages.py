"""MLflow's pages: addresses that open on runs and not on traces, links, and the columns that the list of runs begins with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.surroundings.network import free_port

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from tasks.ledger.ledger import Ledger

# Where the server that serves this ledger is, for links to its pages.
PAGE = "MOSLIM_MLFLOW"
PORT_FILE = "port"
# Of an experiment: it is about training. The pinned page asks its address, others this tag.
MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
WORKFLOW = "workflowType=machine_learning"
# The name of the view that `show_columns` makes.
VIEW = "moslim"
# The figures that every pipeline's run has under the same names, whatever its preferences.
FIGURES = {
    "control": "Spearman of requested and obtained levels, mean over the steered preferences",
    "control_start": "the same of the starting model",
    "error": "mean distance of obtained from requested levels, in levels",
    "front": "hypervolume of the policy's front",
    "front_start": "the same of the starting model",
    "cut_answers": "share of the policy's answers that the length limit cut",
    "off_topic_answers": "share of the policy's answers that are not about their question (with evaluation.topic)",
    "restating_answers": "share of the policy's answers that only say their question again",
    "reward_accuracy": "how often a head says the right level, mean over heads",
    "minutes": "of all stages, reused ones included",
}
# What tells runs apart in the list.
PARAMS = ("policy.optimiser", "policy.steps", "seed")


def show_columns(client: MlflowClient, experiment: str, tags: Mapping[str, str]) -> None:
    """Keep a view of an experiment whose list of runs has the figures as columns, as MLflow's "Share view" does; `tags` are what it has."""
    shown = [*(f"metrics.`{name}`" for name in FIGURES), *(f"params.`{name}`" for name in PARAMS)]
    widths = {"attributes.`Run Name`": 300, "runDateAndNestInfo": 130, **dict.fromkeys(shown, 110)}
    view = {"selectedColumns": [*shown, "attributes.`Dataset`"], "columnOrder": list(widths), "columnWidths": widths}
    key, value = f"mlflow.sharedViewState.{VIEW}", json.dumps(view)
    if tags.get(key) != value:
        client.set_experiment_tag(experiment, key, value)


def runs_page(server: str, experiment: str) -> str:
    """The list of an experiment's runs, with the columns of `show_columns`."""
    return f"{server}/#/experiments/{experiment}/runs?{WORKFLOW}&viewStateShareKey={VIEW}"


def describe(ledger: Ledger, run_id: str, text: str) -> None:
    """What MLflow's page of a run says about it, in markdown."""
    ledger.client.set_tag(run_id, "mlflow.note.content", text)


def link(ledger: Ledger, run_id: str, text: str) -> str:
    """Markdown that leads to a run's page: of the server that has the store, else of the one that `moslim ui` or `up` starts."""
    server = ledger.uri if ledger.served else os.environ.get(PAGE) or f"http://127.0.0.1:{kept_port(ledger.home)}"
    return f"[{text}]({server}/{_place(ledger, run_id)})"


def link_within(ledger: Ledger, run_id: str, text: str) -> str:
    """Markdown that leads from one of MLflow's pages to a run's, wherever they are served."""
    return f"[{text}]({_place(ledger, run_id)})"


def kept_port(home: Path) -> int:
    """The loopback port of the server whose files are in `home`: that of the last one, or the one that the first is going to have."""
    try:
        return int((home / PORT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        port = free_port()
        note_port(home, port)
        return port


def note_port(home: Path, port: int) -> None:
    """Keep `port` for the next server in `home`, and for links to it."""
    partial = home / f".{PORT_FILE}.{os.getpid()}"
    partial.write_text(str(port), encoding="utf-8")
    os.replace(partial, home / PORT_FILE)


def _place(ledger: Ledger, run_id: str) -> str:
    return f"#/experiments/{ledger.experiment_id}/runs/{run_id}?{WORKFLOW}"
