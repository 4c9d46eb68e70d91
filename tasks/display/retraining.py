"""What a retraining reads of both policies, and where it leaves why it decided as it did."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moslim_core.data.drift import Drift, drifts
from moslim_core.evaluation.promotion_gate import Decision, Measured
from moslim_core.preferences import PreferenceSchema
from tasks.display.prefect_page import show_curves
from tasks.ledger.ledger import Ledger
from tasks.ledger.mlflow_pages import link
from tasks.ledger.of_work_dir import ledger_of
from tasks.ledger.references import ArtifactRef

DATA_CARD = "data_card.json"


def measured(evaluation: ArtifactRef, work_dir: Path) -> Measured:
    """What an evaluation found of its policy."""
    from moslim_core.evaluation.suite import read_benchmarks, read_control

    folder = ledger_of(work_dir).download(evaluation.uri)
    controlled = (folder / "controllability.after.json").is_file()
    return Measured(control=read_control(folder, "after") if controlled else None, benchmarks=read_benchmarks(folder, "after"))


def drifts_from(champion: ArtifactRef, rows: ArtifactRef, work_dir: Path) -> list[Drift]:
    """Between the rows that the champion was trained on and new ones; empty where the champion's are gone."""
    from mlflow.exceptions import MlflowException

    ledger = ledger_of(work_dir)
    trained_on = ledger.input_of(champion.run_id, "rows")
    try:
        old = _card(ledger.download(trained_on)) if trained_on else None
    except (MlflowException, OSError):
        old = None
    return drifts(old, _card(ledger.download(rows.uri))) if old else []


def _card(folder: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((folder / DATA_CARD).read_text(encoding="utf-8"))
    return card


def told(drift: Sequence[Drift]) -> str:
    """The drifts in one line."""
    moved = "; ".join(str(each) for each in drift if each.drifted)
    return moved or (f"none in {len(drift)} figures" if drift else "not compared")


def show(decision: Decision, drift: Sequence[Drift], title: str, runs: Mapping[str, str], ledger: Ledger) -> None:
    """Everything that was looked at, as a table in Prefect, with links to `runs`, {what a run is: its id}."""
    from prefect.artifacts import create_markdown_artifact, create_table_artifact

    rows: list[dict[str, Any]] = [
        {"what": f.what, "champion": f.champion, "challenger": f.challenger, "bound": f.bound, "holds": f.holds} for f in decision.findings
    ]
    rows += [{"what": d.what, "champion": None, "challenger": d.value, "bound": f"{d.low:g} to {d.high:g}", "holds": None} for d in drift]
    create_table_artifact(rows, key="retrain-gate", description=title)
    links = "\n".join(f"- {link(ledger, run_id, what)}" for what, run_id in runs.items())
    create_markdown_artifact(f"{title}\n\nRuns in MLflow:\n\n{links}\n", key="retrain-runs", description="What was decided, and its runs.")


def show_control(preferences: PreferenceSchema, champion: Measured | None, challenger: Measured) -> None:
    """Requested against obtained levels of both, as a picture in Prefect; nothing where control was not evaluated."""
    controls = {"champion": champion and champion.control, "challenger": challenger.control}
    systems = {name: control for name, control in controls.items() if control}
    show_curves(preferences, systems, "retrain-control")
