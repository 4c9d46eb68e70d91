"""An evaluation's figures reach MLflow's tables and summary.json as they were measured, what is undefined as null."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moslim_core.evaluation.suite import Runs, read_benchmarks
from tasks.display.latest_folder import _summary
from tasks.display.tables import log_tables
from tasks.ledger.ledger import Ledger
from tasks.ledger.references import ArtifactRef, Outcome
from tasks.stages.evaluate import SYSTEMS
from tasks.stages.report import _paired
from tests.core.report.made_content import made

OUTCOMES = {
    "evaluate": Outcome(
        ref=ArtifactRef(kind="evaluation", uri="runs:/1/output", digest="", run_id="1"),
        stage="evaluate", cached=False, seconds=1.0, peak_memory_gb=0.5, metrics={},
    )
}  # fmt: skip


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """The output of stage `evaluate` that the report's example is made from."""
    folder, content = tmp_path / "evaluation", made()
    folder.mkdir()
    for system in SYSTEMS:
        (folder / f"controllability.{system}.json").write_text(getattr(content, system).model_dump_json())
        (folder / f"front.{system}.json").write_text(getattr(content.fronts, system).model_dump_json())
        runs = {name: getattr(both, system) for name, both in content.benchmarks.items()}
        (folder / f"benchmarks.{system}.json").write_bytes(Runs.dump_json(runs))
    return folder


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield Ledger(tmp_path / "work")


def tables(ledger: Ledger, evaluation: Path) -> dict[str, list[dict[str, Any]]]:
    run_id = ledger.open_pipeline("f" * 64, "align", {})
    log_tables(ledger.client, run_id, evaluation)
    found = {}
    for file in ledger.client.list_artifacts(run_id, "tables"):
        table = json.loads((ledger.download(f"runs:/{run_id}/{file.path}")).read_text())
        found[Path(file.path).stem] = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    return found


def test_tables_hold_what_was_measured(ledger: Ledger, evaluation: Path) -> None:
    content, found = made(), tables(ledger, evaluation)
    assert set(found) == {"control", "front", "benchmarks"} and content.fronts is not None
    spearman = content.after.preferences["verbosity"].spearman
    assert found["control"][len(found["control"]) // 2] == pytest.approx(
        {
            "preference": "verbosity", "figure": "spearman", "system": "after", **spearman.model_dump(),
            "judged": content.after.preferences["verbosity"].answers, "missing": 0,
        }
    )  # fmt: skip
    assert {row["figure"]: row["value"] for row in found["front"] if row["system"] == "before"}["sparsity"] == pytest.approx(
        content.fronts.before.sparsity.value
    )
    by_measure = {row["measure"]: row for row in found["benchmarks"] if row["system"] == "after"}
    assert by_measure["grade"]["value"] is None and by_measure["grade"]["not_run"].startswith("needs a language model")
    rate = content.benchmarks["hackaprompt"].after.result.measures["attack_success_rate"].overall
    assert by_measure["attack_success_rate"]["high"] == pytest.approx(rate.mean.high)
    assert (by_measure["attack_success_rate"]["judged"], by_measure["attack_success_rate"]["missing"]) == (rate.judged, rate.missing)


def test_no_table_of_what_was_not_measured(ledger: Ledger, evaluation: Path) -> None:
    for file in (*evaluation.glob("front.*"), *evaluation.glob("benchmarks.*")):
        file.unlink()
    assert set(tables(ledger, evaluation)) == {"control"}
    summary = _summary(OUTCOMES, evaluation)
    assert summary["fronts"] == {"before": None, "after": None} and summary["benchmarks"] == {"before": {}, "after": {}}


def test_summary_and_report_read_the_same_runs(evaluation: Path) -> None:
    content, summary = made(), _summary(OUTCOMES, evaluation)
    json.dumps(summary, allow_nan=False)
    assert content.fronts is not None
    assert summary["fronts"]["after"] == content.fronts.after.model_dump(mode="json")
    assert summary["benchmarks"]["before"]["xstest"]["dropped"] == {"identical prompt": 3}
    assert _paired(read_benchmarks, evaluation) == content.benchmarks
