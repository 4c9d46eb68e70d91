"""An evaluation as small tables on the pipeline's run, for MLflow's table view: a row per figure and system, bounds in columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.stages.evaluate import SYSTEMS

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from moslim_core.statistics.bootstrap import Interval

CONTROL = ("spearman", "mae", "exact", "within_one", "span")


def log_tables(client: MlflowClient, run_id: str, evaluation: Path) -> None:
    """tables/control.json, front.json and benchmarks.json, each where there is something to say."""
    for name, made in (("control", _control), ("front", _front), ("benchmarks", _benchmarks)):
        rows = [row for system in SYSTEMS for row in made(evaluation, system)]
        if rows:
            client.log_table(run_id, {column: [row[column] for row in rows] for column in rows[0]}, f"tables/{name}.json")


def _control(evaluation: Path, system: str) -> Iterator[dict[str, Any]]:
    from moslim_core.evaluation.suite import read_control

    for name, control in read_control(evaluation, system).preferences.items():
        for figure in CONTROL:
            bounds = _columns(getattr(control, figure))
            yield {"preference": name, "figure": figure, "system": system, **bounds, "judged": control.answers, "missing": control.missing}


def _front(evaluation: Path, system: str) -> Iterator[dict[str, Any]]:
    from moslim_core.evaluation.fronts import FIGURES
    from moslim_core.evaluation.suite import read_front

    front = read_front(evaluation, system)
    for figure in FIGURES if front else ():
        yield {"figure": figure, "system": system, **_columns(getattr(front, figure))}


def _benchmarks(evaluation: Path, system: str) -> Iterator[dict[str, Any]]:
    from moslim_core.evaluation.suite import read_benchmarks
    from moslim_core.statistics.bootstrap import Interval

    for name, run in read_benchmarks(evaluation, system).items():
        for measure, scores in run.result.measures.items():
            of = scores.overall
            where = {"benchmark": name, "measure": measure, "system": system}
            yield {**where, **_columns(of.mean), "judged": of.judged, "missing": of.missing, "not_run": ""}
        for measure, reason in run.result.not_run.items():
            where = {"benchmark": name, "measure": measure, "system": system}
            yield {**where, **_columns(Interval(value=None, low=None, high=None)), "judged": 0, "missing": 0, "not_run": reason}


def _columns(interval: Interval) -> dict[str, float | None]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}
