"""Flow `stage`: one stage of a pipeline whose stages are placed on pools, on a worker of its pool."""

from __future__ import annotations

from prefect import flow

from flows.failed_state import failed_on_user_error
from moslim_core.settings import Settings
from moslim_core.settings_section import changed
from tasks.execution.on_pool import FLOW, leave_outcome, require_parent
from tasks.execution.stage import stage_task
from tasks.ledger.of_work_dir import ledger_of
from tasks.ledger.references import ArtifactRef
from tasks.stage_list import stage_named
from tasks.surroundings import on_worker


@flow(name=FLOW, flow_run_name="{name}")
@failed_on_user_error
def stage(settings: Settings, name: str, inputs: dict[str, ArtifactRef], parent: str) -> None:
    """Run the stage `name` here, and leave its outcome with the MLflow run `parent`. Other flows start this one.

    Raises UserError if there is no such stage, or this worker's ledger has no such run.
    """
    wanted = stage_named(name)
    settings = on_worker.prepared(changed(settings, placement="inline"))
    ledger = ledger_of(settings.work_dir)
    require_parent(ledger, parent)
    outcome = stage_task(wanted, settings, inputs, parent)
    leave_outcome(ledger, parent, outcome)
