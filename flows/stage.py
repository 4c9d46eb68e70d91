"""Flow `stage`: one stage of a pipeline whose stages are placed on pools, on a worker of its pool."""

from __future__ import annotations

from prefect import flow

from moslim_core.errors import UserError
from moslim_core.section import changed
from moslim_core.settings import Settings
from tasks import compare_systems, evaluate, hosted, label, report, train_policy, train_reward
from tasks.elsewhere import FLOW, leave_outcome, require_parent
from tasks.references import ArtifactRef
from tasks.stage import Stage, ledger_of, stage_task


def stages() -> dict[str, Stage]:
    """Every stage, by its name."""
    own = (label.STAGE, train_reward.REWARD_STAGE, train_reward.JUDGE_STAGE, train_policy.STAGE, evaluate.STAGE, report.STAGE)
    return {stage.name: stage for stage in (*own, *compare_systems.stages().values())}


@flow(name=FLOW, flow_run_name="{name}")
def stage(settings: Settings, name: str, inputs: dict[str, ArtifactRef], parent: str) -> None:
    """Run the stage `name` here, and leave its outcome with the MLflow run `parent`. Other flows start this one.

    Raises UserError if this worker's ledger has no such run.
    """
    known = stages()
    if name not in known:
        raise UserError(f"name={name}: there is no such stage.\nGive one of {', '.join(known)}.")
    settings = hosted.prepared(changed(settings, placement="inline"))
    ledger = ledger_of(settings.work_dir)
    require_parent(ledger, parent)
    outcome = stage_task(known[name], settings, inputs, parent)
    leave_outcome(ledger, parent, outcome)
