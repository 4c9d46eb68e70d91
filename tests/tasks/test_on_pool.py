"""A stage on another worker, without servers: what comes back, and what is done about a worker that was lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect.states import Completed, Crashed, Failed

from moslim_core.errors import UserError
from tasks.execution import on_pool
from tasks.execution.on_pool import ATTEMPTS, leave_outcome, require_parent, run_on_pool
from tasks.ledger.ledger import Ledger
from tasks.ledger.references import ArtifactRef, Outcome


class Anything:
    """Stands for settings, which only travel."""

    def dump(self) -> dict[str, Any]:
        return {"seed": 0}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return Ledger(tmp_path_factory.mktemp("ledger"))


def run(ledger: Ledger, parent: str, endings: list[Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Outcome, list[dict[str, Any]], str]:
    """(outcome, parameters of each flow run, the stage's MLflow run) where the flow runs end like this."""
    asked: list[dict[str, Any]] = []
    stage_run = ledger.open_stage("label", f"fingerprint of {parent}", parent, {})
    outcome = Outcome(
        ref=ArtifactRef(kind="rows", uri=f"runs:/{stage_run}/output", digest="d", run_id=stage_run),
        stage="label", cached=False, seconds=1.5, peak_memory_gb=0.25, metrics={"rows/train": 7.0},
    )  # fmt: skip

    def ended(stage: str, pool: str, parameters: dict[str, Any]) -> Any:
        asked.append(parameters)
        state = endings[len(asked) - 1]
        if state.is_completed():
            leave_outcome(ledger, parent, outcome)
        return state

    monkeypatch.setattr(on_pool, "_run", ended)
    inputs = {"rows": outcome.ref}
    found = run_on_pool("label", "cpu", Anything(), inputs, ledger, parent)  # type: ignore[arg-type]
    assert found == outcome
    return found, asked, stage_run


def test_a_stage_that_was_lost_with_its_worker_is_run_again(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = ledger.open_pipeline("lost", "align", {})
    _, asked, stage_run = run(ledger, parent, [Crashed(), Crashed(), Completed()], monkeypatch)
    assert len(asked) == 3 and asked[0] == asked[2]
    assert asked[0]["parent"] == parent and asked[0]["inputs"]["rows"]["digest"] == "d"
    assert ledger.client.get_run(stage_run).info.status == "KILLED", "what can't close its run any more has it closed"


@pytest.mark.parametrize("ending", [Failed(message="UserError: no rows"), Crashed(message="out of memory")])
def test_a_failure_is_told_and_a_worker_is_not_lost_for_ever(ending: Any, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = ledger.open_pipeline(str(ending.message), "align", {})
    with pytest.raises(RuntimeError, match=str(ending.message)):
        run(ledger, parent, [ending] * (ATTEMPTS if ending.is_crashed() else 1), monkeypatch)


def test_a_worker_with_another_ledger_says_so(ledger: Ledger, tmp_path: Path) -> None:
    parent = ledger.open_pipeline("other", "align", {})
    require_parent(ledger, parent)
    with pytest.raises(UserError, match="the same MLFLOW_TRACKING_URI"):
        require_parent(Ledger(tmp_path), parent)
