"""Stage `label`: rated answers and prompts -> checked, split rows with a data card."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from moslim_core.settings import Settings
from tasks.references import path_digest
from tasks.stage import Job, Outcome, Stage, run_stage


def _section(settings: Settings) -> dict[str, Any]:
    from moslim_core.data import starter

    dumped = settings.dump()
    policy, evaluation = dumped["policy"], dumped["evaluation"]
    source = starter.ROWS if settings.data.source == "starter" else settings.data.path
    return {
        "data": dumped["data"],
        "data_digest": path_digest(source),
        "preferences": dumped["preferences"],
        "base": settings.model.base,
        "prompts": policy["prompts"],
        "prompts_digest": path_digest(settings.policy.prompts),
        **{key: policy[key] for key in ("placement", "max_prompt_tokens", "max_new_tokens")},
        **{key: evaluation[key] for key in ("judge", "limit")},
    }


STAGE = Stage("label", version=1, kind="rows", section=_section)


def work(job: Job) -> dict[str, float]:
    from moslim_core.data.prepare import prepare
    from moslim_core.progress import Progress

    card = prepare(job.settings, job.output, job.cache, Progress(job.events))
    return {f"rows/{split}": float(count) for split, count in card["rows"].items()}


@task(name="label", cache_policy=NO_CACHE)
def label(settings: Settings, parent: str | None) -> Outcome:
    """Rated answers and prompts -> checked, split rows with a data card."""
    return run_stage(STAGE, settings, {}, parent)
