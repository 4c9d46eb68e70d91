"""Stage `train_policy`: prompts and a reward model -> one policy that follows preferences stated in the prompt."""

from __future__ import annotations

import shutil
from typing import Any

from moslim_core.policy.artifact import TRAINING_LOG
from moslim_core.policy.settings import PolicySettings
from moslim_core.settings import Settings
from tasks.execution import machine
from tasks.execution.stage import Check, Job, Stage, stage_task, unchecked
from tasks.ledger.references import ArtifactRef, Outcome
from tasks.surroundings.environment import model_of

# Profiles that only start processes, which then compute what they would without.
ONLY_START = ("one-gpu", "ddp")


def section(settings: Settings) -> dict[str, Any]:
    """What a policy's training depends on."""
    dumped = settings.dump()
    policy = {k: v for k, v in dumped["policy"].items() if k not in ("prompts", "accelerate")}
    # That a server draws counts, not where it is.
    policy["vllm_url"] = settings.policy.vllm_url is not None
    # What is not used is as it is by default.
    used = {settings.policy.optimiser, "sft" if settings.policy.warm_start != "none" else ""}
    policy |= {name: PolicySettings().model_dump(mode="json")[name] for name in {"grpo", "ppo", "sft"} - used}
    # Another accelerate file may change the precision and the order of sums: what it says counts, not where it is.
    said = {} if settings.policy.accelerate in ONLY_START else machine.configuration(settings.policy)[1]
    return {
        "policy": policy,
        "accelerate": said,
        "mapping": dumped["mapping"],
        "model": dumped["model"] | {"base": model_of(settings.model.base, settings).id.digest},
        "preferences": dumped["preferences"],
        "seed": settings.seed,
    }


STAGE = Stage("train_policy", version=22, kind="policy", section=section, launch=machine.launch, pool="gpu")


def work(job: Job) -> dict[str, float]:
    """Train the policy. Its figures go out step by step, so that none are left for the end."""
    from moslim_core.policy import training
    from moslim_core.training.distributed import is_first
    from moslim_core.training.progress import Progress

    machine.require_started(job.settings.policy)
    training.train(
        job.settings,
        data=job.inputs["rows"],
        reward_model=job.inputs["reward_model"],
        cache=job.cache,
        checkpoints=job.checkpoints,
        output=job.output,
        progress=Progress(job.events if is_first() else None),
    )
    if is_first():
        shutil.copyfile(job.events, job.output / TRAINING_LOG)
    return {}


def train_policy(settings: Settings, rows: ArtifactRef, reward_model: ArtifactRef, parent: str | None, check: Check = unchecked) -> Outcome:
    """Prompts and a reward model -> one policy that follows preferences stated in the prompt."""
    return stage_task(STAGE, settings, {"rows": rows, "reward_model": reward_model}, parent, check)
