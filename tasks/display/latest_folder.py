"""`<work_dir>/latest/`: the last run's report, summary and models, where a person and a script find them; links in Prefect."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from moslim_core.json_text import writable
from moslim_core.settings import Settings
from tasks.display.prefect_page import show_curves, show_report
from tasks.display.tables import log_tables
from tasks.ledger.mlflow_pages import describe, link_within
from tasks.ledger.of_work_dir import ledger_of
from tasks.ledger.overview import stages_table, told
from tasks.ledger.references import FINDINGS, Outcome
from tasks.ledger.registry import POLICY, Registry
from tasks.stage_list import STAGES
from tasks.stages.evaluate import SYSTEMS
from tasks.stages.report import FIGURES, PAGE

DATA_CARD = "data_card.html"


def publish(settings: Settings, run_id: str, outcomes: Mapping[str, Outcome], name: str) -> None:
    """Renew `latest/` from a finished pipeline called `name`, describe it in MLflow and Prefect, and register its policy."""
    from moslim_core.evaluation.suite import read_control

    ledger = ledger_of(settings.work_dir)
    latest = settings.work_dir / "latest"
    latest.mkdir(exist_ok=True)
    for stage, of in STAGES.items():
        if of.linked and stage in outcomes:
            _link(latest / of.gives, ledger.download(outcomes[stage].ref.uri))
    _link(latest / DATA_CARD, ledger.download(outcomes["label"].ref.uri) / DATA_CARD)
    if "report" not in outcomes:
        return
    report = ledger.download(outcomes["report"].ref.uri)
    page = report / PAGE
    shutil.copyfile(page, latest / f".{PAGE}")
    os.replace(latest / f".{PAGE}", latest / PAGE)
    ledger.client.log_artifact(run_id, str(page))
    ledger.client.log_artifacts(run_id, str(report / FIGURES), FIGURES)
    summary = json.loads((report / FINDINGS).read_text(encoding="utf-8"))
    describe(ledger, run_id, f"{told(summary)}\n\n{stages_table(outcomes, partial(link_within, ledger))}")
    if "train_policy" in outcomes:
        text = f"{name}. {summary['headline']} {link_within(ledger, run_id, 'The run with its report.')}"
        Registry(settings.work_dir, POLICY).register(outcomes["train_policy"].ref, text)
    evaluation = ledger.download(outcomes["evaluate"].ref.uri)
    log_tables(ledger.client, run_id, evaluation)
    write_summary(latest, {"run_id": run_id, **summary, **_summary(outcomes, evaluation)})
    show_report(latest / PAGE, summary, outcomes, evaluation, run_id, ledger)
    show_curves(settings.preferences, {called: read_control(evaluation, system) for system, called in SYSTEMS.items()}, "control")


def write_summary(latest: Path, values: Mapping[str, Any]) -> None:
    """Merge `values` into latest/summary.json."""
    file = latest / "summary.json"
    try:
        known = dict(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        # None yet, or one that somebody else's hand has spoiled.
        known = {}
    if known.get("run_id") != values.get("run_id", known.get("run_id")):
        known = {}
    partial = latest / ".summary.json"
    partial.write_text(json.dumps(writable({**known, **values}), indent=1), encoding="utf-8")
    os.replace(partial, file)


def _summary(outcomes: Mapping[str, Outcome], evaluation: Path) -> dict[str, Any]:
    from moslim_core.evaluation.suite import read_attack, read_benchmarks, read_control, read_front, read_together

    attacks = {system: read_attack(evaluation, system) for system in SYSTEMS}
    fronts = {system: read_front(evaluation, system) for system in SYSTEMS}
    return {
        "controllability": {s: read_control(evaluation, s).model_dump(mode="json") for s in SYSTEMS},
        # Null where no request named several preferences.
        "together": {s: together.model_dump(mode="json") if (together := read_together(evaluation, s)) else None for s in SYSTEMS},
        # Null where nothing was attacked.
        "attack": {s: attack.model_dump(mode="json") if attack else None for s, attack in attacks.items()},
        # Null where there was nothing to trade; no benchmarks where none was in the suite.
        "fronts": {s: front.model_dump(mode="json") if front else None for s, front in fronts.items()},
        "benchmarks": {s: {n: run.model_dump(mode="json") for n, run in read_benchmarks(evaluation, s).items()} for s in SYSTEMS},
        "stages": {
            name: {
                "seconds": round(o.seconds, 1),
                "peak_memory_gb": round(o.peak_memory_gb, 2),
                "cached": o.cached,
                "reference": o.ref.model_dump(),
            }
            for name, o in outcomes.items()
        },
        # Of making every output, the reused ones included; wall_seconds and peak_memory_gb are those of this run alone.
        "cost": {
            "seconds": round(sum(o.seconds for o in outcomes.values()), 1),
            "peak_memory_gb": round(max(o.peak_memory_gb for o in outcomes.values()), 2),
        },
        "metrics": {name: o.metrics for name, o in outcomes.items()},
    }


def _link(path: Path, target: Path) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, path.parent))
    os.replace(temporary, path)
