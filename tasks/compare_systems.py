"""Stages `compared_<method>`: one compared system trains within the rollout budget, answers at the operating points, and is judged."""

from __future__ import annotations

from functools import partial
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from moslim_core.baselines import MAPPED, METHODS, SUPERVISED
from moslim_core.settings import Settings
from tasks import train_policy
from tasks.evaluate import UNCOUNTED, judge_of
from tasks.references import ArtifactRef
from tasks.stage import Job, Outcome, Stage, run_stage

PREFIX = "compared_"


def _section(settings: Settings, mapped: bool, supervised: bool) -> dict[str, Any]:
    chosen = {"judge", "endpoint", "operating_points", "temperature", "batch_size", "bootstrap"}
    evaluation = settings.evaluation.model_dump(mode="json", include=chosen, exclude={"endpoint": UNCOUNTED})
    learning = {"sft": settings.policy.sft.model_dump(mode="json")} if supervised else {}
    training = train_policy.section(settings)
    mapping = training["mapping"] if mapped else {"weights": training["mapping"]["weights"]}
    return {**training, **learning, "mapping": mapping, "evaluation": evaluation}


STAGES = {
    name: Stage(
        PREFIX + name,
        version=4,
        kind="compared",
        section=partial(_section, mapped=name in MAPPED, supervised=name in SUPERVISED),
        pool="gpu",
    )
    for name in METHODS
}


def work(job: Job) -> dict[str, float]:
    from moslim_core.baselines.measure import measure, read_rows
    from moslim_core.baselines.method import Context
    from moslim_core.progress import Progress

    start = read_rows(job.inputs["start"])[0] if "start" in job.inputs else None
    context = Context(
        settings=job.settings,
        rows=job.inputs["rows"],
        reward_model=job.inputs["reward_model"],
        policy=job.inputs.get("policy"),
        judge=judge_of(job),
        reference=start.front.reference if start else None,
        cache=job.cache,
        work=job.checkpoints,
        output=job.output,
        progress=Progress(job.events),
    )
    return measure(job.stage.removeprefix(PREFIX), context)


def compared(name: str, settings: Settings, inputs: dict[str, ArtifactRef], parent: str | None) -> Outcome:
    """The rows of one method. `inputs`: rows and reward_model, judge where it is one, `start`, the output of prompt_only, for all but
    prompt_only, and policy for this project's method."""
    return task(name=STAGES[name].name, cache_policy=NO_CACHE)(run_stage)(STAGES[name], settings, inputs, parent)
