"""What a comparison of systems would do: which of its stages are there, and what the others cost on this machine. (ours)"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, computed_field

from moslim_core import cost
from moslim_core.baselines import START, ours
from moslim_core.settings import Settings
from moslim_core.settings_section import changed
from tasks.execution.stage import Job, compute, fingerprint
from tasks.ledger.of_work_dir import ledger_of
from tasks.ledger.references import ArtifactRef
from tasks.planning.plan import RECORDS_GB, adapter_gb, counts_of, reused_stages, size_of, stage_costs
from tasks.stages import train_policy, train_reward
from tasks.stages.compare_systems import comparable, stage_of
from tasks.surroundings import environment


class PlannedSystem(BaseModel):
    """A system under a seed. `reused`: its rows are there already."""

    name: str
    seed: int
    reused: bool
    seconds: float


class ComparisonPlan(BaseModel):
    """`shared_seconds`: of labels, reward models and judges that are not there yet; `search_seconds`: of trainings at learning rates that
    are not kept. `disk_gb`: what would be written."""

    systems: list[PlannedSystem]
    shared_seconds: float
    search_seconds: float
    seconds: float
    disk_gb: float

    @computed_field  # type: ignore[prop-decorator]
    @property
    def sentence(self) -> str:
        """What is there and what is left, as a person reads it."""
        rows, there, hours = len(self.systems), sum(system.reused for system in self.systems), self.seconds / 3600
        seeds = len({system.seed for system in self.systems})
        what = f"{rows} systems" if seeds == 1 else f"{rows} rows ({rows // seeds} systems, {seeds} seeds)"
        if there == rows and not self.search_seconds:
            return f"all {what} are here"
        left = f"about {hours:.1f} h" if hours >= 1.5 else f"about {hours * 60:.0f} min"
        return f"{there} of {what} are here; the rest takes {left} and {self.disk_gb:.1f} GB of disk"


def plan_comparison(settings: Settings, names: Sequence[str], seeds: Sequence[int], search: Sequence[float] = ()) -> ComparisonPlan:
    """`search`: factors of learning rates, each of which is tried with the first seed.

    Raises UserError where the rows or the models can't be read.
    """
    import torch

    from moslim_core.baselines.measure import method_of

    settings = comparable(settings)
    cache = environment.model_cache(settings.work_dir)
    device, dtype = compute(settings)
    speed = cost.measured_speed(device, getattr(torch, dtype))
    base, judge = size_of(settings.model.base, cache), size_of(settings.reward.backbone, cache)
    systems: list[PlannedSystem] = []
    shared, searched, disk = 0.0, 0.0, RECORDS_GB
    for seed in seeds:
        own = changed(settings, seed=seed)
        stages = dict(reused_stages(own))
        counts = counts_of(own, stages.get("label"))
        before = ("label", "train_reward", *([train_reward.JUDGE] if own.evaluation.judge == "reward_model" else []))
        # The labels are the same under every seed.
        new = [name for name in before if name not in stages and (name != "label" or seed == seeds[0])]
        shared += sum(of().seconds for name, of in stage_costs(own, counts, speed) if name in new)
        there = set(_there(own, names, stages))
        for name in names:
            facts = _facts(name, own, counts)
            training = method_of(name).training(own.policy)
            of = cost.compared_cost(facts, training, own.evaluation, own.preferences, base, judge, counts, speed)
            systems.append(PlannedSystem(name=name, seed=seed, reused=name in there, seconds=round(of.seconds, 1)))
            # One of the factors is the row's own.
            trials = max(0, len(search) - 1) if facts.trained and seed == seeds[0] else 0
            searched += trials * of.seconds
            disk += _kept_gb(name, own, base, speed.bytes) * (trials + (name not in there))
    left = shared + searched + sum(system.seconds for system in systems if not system.reused)
    return ComparisonPlan(
        systems=systems,
        shared_seconds=round(shared, 1),
        search_seconds=round(searched, 1),
        seconds=round(left, 1),
        disk_gb=round(disk, 2),
    )


def _kept_gb(name: str, settings: Settings, base: cost.Size, bytes_each: int) -> float:
    """GB of what a system's training leaves; `bytes_each`: of a number in the run's dtype."""
    from moslim_core.baselines.measure import method_of

    method = method_of(name)
    if not method.trained:
        return 0.0
    return method.kept(settings) * (base.parameters * bytes_each / 1e9 if method.supervised else adapter_gb(settings, base))


def work(job: Job) -> dict[str, Any]:
    """The question what the comparison of the job's systems would do."""
    return plan_comparison(job.settings, job.stages, job.seeds, job.search).model_dump(mode="json")


def _facts(name: str, settings: Settings, counts: cost.Counts) -> cost.Trained:
    from moslim_core.baselines.levels_by_weights import FINE_POINTS
    from moslim_core.baselines.measure import method_of
    from moslim_core.baselines.method import LevelBased, rollouts

    method, policy = method_of(name), settings.policy
    rows = 1 if name in ours() else len(method.rows)
    chosen_from = 1
    if name == "best_of_n":
        given = counts.evaluation_prompts * settings.evaluation.operating_points
        chosen_from = max(2, -(-rollouts(policy, policy.steps) // max(1, given)))
    levels = issubclass(method, LevelBased)
    fine_points = FINE_POINTS if method.free_points and not levels else 0
    return cost.Trained(method.trained, method.supervised, levels, rows, chosen_from, fine_points)


def _there(settings: Settings, names: Sequence[str], stages: Mapping[str, ArtifactRef]) -> Iterator[str]:
    """The systems whose rows are there, of a seed whose earlier stages `stages` are."""
    judged = settings.evaluation.judge == "reward_model"
    if not {"label", "train_reward", *([train_reward.JUDGE] if judged else [])} <= stages.keys():
        return
    ledger = ledger_of(settings.work_dir)
    shared = {"rows": stages["label"], "reward_model": stages["train_reward"]}
    judge = {"judge": stages[train_reward.JUDGE]} if judged else {}

    def finished(stage: Any, own: Settings, inputs: Mapping[str, ArtifactRef]) -> ArtifactRef | None:
        return ledger.finished(stage.name, fingerprint(stage, own, inputs))

    start = finished(stage_of(START), settings, {**shared, **judge})
    if start is None:
        return
    yield START
    for name in names:
        own, inputs = settings, {**shared, **judge, "start": start}
        if name in ours():
            own = changed(settings, policy=changed(settings.policy, optimiser=ours()[name]))
            policy = finished(train_policy.STAGE, own, shared)
            if policy is None:
                continue
            inputs["policy"] = policy
        if name != START and finished(stage_of(name), own, inputs) is not None:
            yield name
