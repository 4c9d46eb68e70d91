"""Stages `compared_<method>`: one compared system trains within the rollout budget, answers at the operating points, and is judged."""

from __future__ import annotations

from functools import partial
from typing import Any

from moslim_core import registry
from moslim_core.baselines import methods, ours
from moslim_core.errors import UserError
from moslim_core.settings import Settings
from moslim_core.settings_section import changed
from tasks.execution import machine
from tasks.execution.launcher import Launch
from tasks.execution.stage import Job, Stage, stage_task
from tasks.ledger.references import ArtifactRef, Outcome
from tasks.stage_list import COMPARED
from tasks.stages import train_policy
from tasks.stages.evaluate import UNCOUNTED, benchmark_digests, endpoint_of, judge_of

# The benchmark that tells what a training has cost elsewhere.
ELSEWHERE = "known_answers"


def _section(name: str, settings: Settings) -> dict[str, Any]:
    from moslim_core.baselines.measure import method_of

    method = method_of(name)
    # Of judges and files the content counts, not the place; they are inputs, or digests.
    left_out: dict[str, Any] = {"policy": True, "data_dir": True, "second_judge": True, "judge_backbone": True, "endpoint": UNCOUNTED}
    evaluation = settings.evaluation.model_dump(mode="json", exclude=left_out)
    digests = benchmark_digests(settings)
    learning = {"sft": settings.policy.sft.model_dump(mode="json")} if method.supervised else {}
    training = train_policy.section(settings)
    mapping = training["mapping"] if method.mapped else {name: training["mapping"][name] for name in ("weights", "aggregation")}
    own = {"baseline": name} if registry.baseline.plugged(name) else {}
    return {**training, **learning, **own, "mapping": mapping, "evaluation": evaluation, "benchmark_digests": digests}


def comparable(settings: Settings) -> Settings:
    """As systems are compared: what is cut off by the clock has fewer answers to learn from than the others, held-out combinations are
    not measured here, and questions with known answers tell what a training has cost elsewhere."""
    suite = tuple(dict.fromkeys((*settings.evaluation.suite, ELSEWHERE)))
    return changed(
        settings,
        policy=changed(settings.policy, max_minutes=None, held_out_fraction=0.0),
        evaluation=changed(settings.evaluation, suite=suite),
    )


def trains(name: str) -> bool:
    """Whether a method's stage trains; this project's own policies are trained by a stage before it."""
    from moslim_core.baselines.measure import method_of

    return name not in ours() and method_of(name).trained


def launch(name: str, settings: Settings) -> Launch:
    """How a method is started: what it trains is trained in as many processes as the policy is, so that seconds and memory compare.

    Raises UserError where its training can't be shared out so or made of the settings, or this machine lacks what that needs.
    """
    from moslim_core.baselines.measure import method_of

    if not trains(name):
        return Launch()
    method_of(name).require_fit(settings)
    if registry.baseline[name].supervised and machine.sharded(settings.policy):
        raise UserError(
            f"policy.accelerate={settings.policy.accelerate} shares weights out among processes, which {name}'s training does not know.\n"
            f"Set policy.accelerate=ddp, or leave {name} out of --baselines."
        )
    return machine.launch(settings)


def stages() -> dict[str, Stage]:
    """Of every method, by its name."""
    return {name: stage_of(name) for name in methods()}


def stage_of(name: str) -> Stage:
    """The stage of a compared system."""
    return Stage(COMPARED + name, version=25, kind="compared", section=partial(_section, name), launch=partial(launch, name), pool="gpu")


def work(job: Job) -> dict[str, float]:
    """Train one compared system and judge its answers; the key numbers of its rows."""
    from moslim_core.baselines.measure import measure, read_rows
    from moslim_core.baselines.method import Context
    from moslim_core.training.distributed import is_first
    from moslim_core.training.progress import Progress

    name = job.stage.removeprefix(COMPARED)
    if trains(name):
        machine.require_started(job.settings.policy)
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
        progress=Progress(job.events if is_first() else None),
        endpoint=endpoint_of(job),
    )
    return measure(name, context)


def compared(name: str, settings: Settings, inputs: dict[str, ArtifactRef], parent: str | None) -> Outcome:
    """The rows of one method. `inputs`: rows and reward_model, judge where it is one, `start`, the output of prompt_only, for all but
    prompt_only, and policy for this project's method."""
    return stage_task(stage_of(name), settings, inputs, parent)
