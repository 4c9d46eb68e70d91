"""Stage `label`: rated answers and prompts -> checked, split rows with a data card."""

from __future__ import annotations

from typing import Any

from moslim_core import registry
from moslim_core.settings import Settings
from tasks.execution.stage import Check, Job, Stage, stage_task, unchecked
from tasks.ledger.references import Outcome, path_digest
from tasks.surroundings.environment import described


def _section(settings: Settings) -> dict[str, Any]:
    from moslim_core.data import starter
    from moslim_core.data.catalogue import HubSet
    from moslim_core.judging.annotator import VERSION

    dumped = settings.dump()
    data, policy, evaluation = settings.data, dumped["policy"], dumped["evaluation"]
    return {
        "data": dumped["data"],
        "data_digest": path_digest(data.path),
        "starter_digest": path_digest(starter.ROWS) if "starter" in data.source else None,
        "revisions": {name: source.revision for name in data.source if issubclass(source := registry.source[name], HubSet)},
        # How fast and at what price a language model is asked changes no label.
        "annotation": settings.annotation.model_dump(
            mode="json", exclude={"judge": {"concurrency", "timeout_seconds", "attempts", "input_price", "output_price"}}
        ),
        "annotator_digest": path_digest(settings.annotation.reward_model),
        "judge_prompt": VERSION,
        "preferences": dumped["preferences"],
        # Its tokenizer and its context say which prompts are short enough; its weights say nothing here.
        "base": described(settings.model.base, settings),
        "prompts": policy["prompts"],
        "prompts_digest": path_digest(settings.policy.prompts),
        **{key: policy[key] for key in ("placement", "max_prompt_tokens", "max_new_tokens")},
        **{key: evaluation[key] for key in ("judge", "second_judge", "limit")},
    }


def _computes(settings: Settings) -> bool:
    return "reward_model" in settings.annotation.fill


STAGE = Stage("label", version=10, kind="rows", section=_section, computes=_computes)


def work(job: Job) -> dict[str, float]:
    """Read, label and split the rated answers; counts."""
    from moslim_core.data.prepare import prepare
    from moslim_core.training.progress import Progress

    card = prepare(job.settings, job.output, job.cache, Progress(job.events))
    return {f"rows/{split}": float(count) for split, count in card["rows"].items()}


def label(settings: Settings, parent: str | None, check: Check = unchecked) -> Outcome:
    """Rated answers and prompts -> checked, split rows with a data card."""
    return stage_task(STAGE, settings, {}, parent, check)
