"""Flow `align`: the whole path, label -> train_reward -> train_policy -> evaluate -> report, and its stages as flows of their own."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache, partial
from pathlib import Path
from typing import Literal, get_args

from prefect import flow
from pydantic import BaseModel

from flows.failed_state import failed_on_user_error
from flows.form import Form, filled_in, name_of
from moslim_core.errors import UserError
from moslim_core.settings import Settings
from tasks.display.latest_folder import publish
from tasks.display.prefect_page import entitle
from tasks.execution.machine import launch
from tasks.execution.questions import ask
from tasks.execution.stage import unchecked
from tasks.ledger.pipeline import close_pipeline, open_pipeline
from tasks.ledger.references import Outcome
from tasks.stage_list import STAGES as LISTED
from tasks.stages.evaluate import evaluate, given_policy
from tasks.stages.label import label
from tasks.stages.report import report
from tasks.stages.train_policy import train_policy
from tasks.stages.train_reward import train_judge, train_reward

StageName = Literal["label", "train_reward", "train_policy", "evaluate", "report"]
STAGES: tuple[StageName, ...] = get_args(StageName)


class Pipeline(BaseModel):
    """What a run of the flow made, stage by stage."""

    run_id: str
    outcomes: dict[str, Outcome]


def _check(settings: Settings, wanted: Collection[str], policy: Path | None) -> None:
    """What the run's models or this machine lack is said before a stage has taken its time; where all is reused, nothing is looked at."""
    ask("check", settings, wanted, policy)
    if "train_policy" in wanted:
        launch(settings)


def _stages(settings: Settings, until: StageName, run_id: str, outcomes: dict[str, Outcome]) -> None:
    """Run the stages in order up to `until`; each finds what it needs of the earlier ones in `outcomes`."""
    wanted = STAGES[: STAGES.index(until) + 1]
    given = None
    if settings.evaluation.policy and until == "evaluate":
        given, settings = given_policy(settings)
        wanted = ("label", "evaluate")
    folder = Path(given.uri) if given and Path(given.uri).is_dir() else None
    check = cache(partial(_check, settings, wanted, folder)) if settings.placement == "inline" else unchecked
    outcomes["label"] = label(settings, run_id, check)
    rows = outcomes["label"].ref
    if "train_reward" in wanted:
        outcomes["train_reward"] = train_reward(settings, rows, run_id, check)
    if "train_policy" in wanted:
        outcomes["train_policy"] = train_policy(settings, rows, outcomes["train_reward"].ref, run_id, check)
    if "evaluate" in wanted:
        if "reward_model" in settings.evaluation.judges:
            outcomes["train_judge"] = train_judge(settings, rows, run_id, check)
        judge = outcomes["train_judge"].ref if "train_judge" in outcomes else None
        outcomes["evaluate"] = evaluate(settings, rows, given or outcomes["train_policy"].ref, judge, run_id, check)
    if "report" in wanted:
        inputs = {of.gives: outcomes[name].ref for name, of in LISTED.items() if name in outcomes}
        outcomes["report"] = report(settings, inputs, run_id)


def run_pipeline(settings: Settings, until: StageName, name: str, parent: str | None = None) -> Pipeline:
    """The stages up to `until`, within a flow; recorded as one run with a child run per stage, called `name`, below `parent` if given.

    Raises UserError where the report would have no control to show.
    """
    if until == "report" and "controllability" not in settings.evaluation.suite:
        raise UserError("evaluation.suite leaves out controllability, which the report is about.\nAdd it, or end before: moslim evaluate.")
    run_id = open_pipeline(settings, until, name, parent)
    outcomes: dict[str, Outcome] = {}
    try:
        _stages(settings, until, run_id, outcomes)
    except BaseException as error:
        close_pipeline(settings, run_id, "FAILED" if isinstance(error, Exception) else "KILLED", outcomes)
        raise
    close_pipeline(settings, run_id, "FINISHED", outcomes)
    return Pipeline(run_id=run_id, outcomes=outcomes)


@flow(name="align")
@failed_on_user_error
def align(settings: Form, until: StageName = "report", name: str | None = None) -> Pipeline:
    """Rated answers and an off-the-shelf chat model -> one policy that follows preferences stated in the prompt, with a report.

    Args:
        settings: what to run: a profile, yours or packaged, with changes, or every setting by itself
        until: the last stage; report is the whole path
        name: what the run is called in MLflow and here; none: by its profile and changes, its optimiser and its seed
    """
    form, settings = settings, filled_in(settings)
    name = name or name_of(form, settings, until)
    entitle(name, [settings.policy.optimiser, until])
    pipeline = run_pipeline(settings, until, name)
    publish(settings, pipeline.run_id, pipeline.outcomes, name)
    return pipeline
