"""Stages `train_reward` and `train_judge`: rows -> a multi-head reward model; the judge learns from prompts of its own."""

from __future__ import annotations

from typing import Any

from moslim_core.reward.settings import RewardSettings
from moslim_core.settings import Settings
from moslim_core.settings_section import changed
from tasks.execution.stage import Check, Job, Stage, stage_task, unchecked
from tasks.ledger.references import ArtifactRef, Outcome
from tasks.surroundings.environment import model_of

JUDGE = "train_judge"


def judge_settings(settings: Settings) -> RewardSettings:
    """The judge's: the reward model's with another seed, and another backbone if one is named."""
    backbone = settings.evaluation.judge_backbone or settings.reward.backbone
    return changed(settings.reward, backbone=backbone, seed=reward_seed(settings) + 1)


def reward_seed(settings: Settings) -> int:
    """The seed of the reward model: its own, or the run's."""
    return settings.seed if settings.reward.seed is None else settings.reward.seed


def _section(settings: Settings) -> dict[str, Any]:
    return _of(settings, changed(settings.reward, seed=reward_seed(settings)))


def _judge_section(settings: Settings) -> dict[str, Any]:
    return _of(settings, judge_settings(settings))


def _of(settings: Settings, reward: RewardSettings) -> dict[str, Any]:
    backbone = model_of(reward.backbone, settings).id.digest
    return {"reward": reward.model_dump(mode="json") | {"backbone": backbone}, "preferences": settings.dump()["preferences"]}


REWARD_STAGE = Stage("train_reward", version=9, kind="reward_model", section=_section, pool="gpu")
JUDGE_STAGE = Stage(JUDGE, version=9, kind="reward_model", section=_judge_section, pool="gpu")


def work(job: Job) -> dict[str, float]:
    """Train a reward model; the metrics of its heads on the test split."""
    from moslim_core.reward.training import dump_metrics, train
    from moslim_core.training.progress import Progress

    settings = job.settings
    judge = job.stage == JUDGE
    reward = judge_settings(settings) if judge else settings.reward
    metrics = train(
        reward,
        settings.model,
        settings.preferences,
        data=job.inputs["rows"],
        split="judge" if judge else "train",
        seed=reward.seed if reward.seed is not None else settings.seed,
        cache=job.cache,
        checkpoints=job.checkpoints,
        output=job.output,
        progress=Progress(job.events),
    )
    return dump_metrics(metrics)


def train_reward(settings: Settings, rows: ArtifactRef, parent: str | None, check: Check = unchecked) -> Outcome:
    """Rows -> the multi-head reward model that trains the policy."""
    return stage_task(REWARD_STAGE, settings, {"rows": rows}, parent, check)


def train_judge(settings: Settings, rows: ArtifactRef, parent: str | None, check: Check = unchecked) -> Outcome:
    """Rows that the training reward model never saw -> an independent judge."""
    return stage_task(JUDGE_STAGE, settings, {"rows": rows}, parent, check)
