"""Stage `evaluate`: the policy and the starting model answer the same requests; an independent judge says what was obtained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from moslim_core.settings import Settings
from tasks.references import ArtifactRef
from tasks.stage import Job, Outcome, Stage, run_stage

# `before` is the starting model under the same instructions and no RL, `after` the policy.
SYSTEMS = ("before", "after")


def _section(settings: Settings) -> dict[str, Any]:
    dumped = settings.dump()
    return {
        "evaluation": dumped["evaluation"],
        "model": dumped["model"],
        "preferences": dumped["preferences"],
        "seed": settings.seed,
    }


STAGE = Stage("evaluate", version=2, kind="evaluation", section=_section)


def work(job: Job) -> dict[str, float]:
    from moslim_core import models
    from moslim_core.data.rows import read_json_lines, write_json_lines
    from moslim_core.evaluation.answers import answer, requests
    from moslim_core.evaluation.controllability import controllability
    from moslim_core.policy.artifact import PolicyCard, load_policy
    from moslim_core.policy.generation import Sampling
    from moslim_core.preferences import Targets
    from moslim_core.progress import Progress

    settings, progress = job.settings, Progress(job.events)
    evaluation, schema = settings.evaluation, settings.preferences
    card = PolicyCard.load(job.inputs["policy"])
    held_out = [Targets(pair) for pair in card.held_out]
    prompts = [value["prompt"] for _, value in read_json_lines(job.inputs["rows"] / "prompts.evaluation.jsonl")]
    asked = requests(schema, held_out)
    judge = _judge(job)
    sampling = Sampling(card.max_new_tokens, evaluation.temperature, evaluation.batch_size)
    job.output.mkdir(parents=True)
    metrics: dict[str, float] = {}
    for system in SYSTEMS:
        if system == "before":
            model, tokenizer = models.load_chat_model(
                card.start(job.inputs["policy"]), job.cache, settings.model.dtype, settings.model.device
            )
        else:
            model, tokenizer, _ = load_policy(job.inputs["policy"], job.cache, settings.model.dtype, settings.model.device)
        rows = answer(
            model, tokenizer, prompts, asked, schema, card.placement, judge, sampling, settings.seed, progress,
            phase=f"answers of the {'starting model' if system == 'before' else 'policy'}",
        )  # fmt: skip
        del model
        write_json_lines(job.output / f"answers.{system}.jsonl", (r.model_dump() for r in rows))
        result = controllability(rows, schema, held_out, evaluation.bootstrap, settings.seed)
        (job.output / f"controllability.{system}.json").write_text(result.model_dump_json(indent=1))
        metrics |= _metrics(system, result)
    write_json_lines(job.output / "prompts.jsonl", ({"prompt": p} for p in prompts))
    (job.output / "judge.json").write_text(json.dumps({"describe": judge.describe}))
    return metrics


def _judge(job: Job) -> Any:
    from moslim_core import models
    from moslim_core.evaluation.judges import AnnotatorJudge, RewardModelJudge
    from moslim_core.reward.scorer import RewardScorer

    if job.settings.evaluation.judge == "annotators":
        return AnnotatorJudge(job.settings.preferences)
    return RewardModelJudge(RewardScorer.load(job.inputs["judge"], models.pick_device(job.settings.model.device)))


def _metrics(system: str, result: Any) -> dict[str, float]:
    """Key numbers for MLflow's compare view: <system>/<preference>/<figure>."""
    found = {f"{system}/truncated": result.truncated, f"{system}/held_out/mae": result.held_out.value}
    for name, control in result.preferences.items():
        for figure in ("spearman", "mae", "exact", "within_one", "span"):
            found[f"{system}/{name}/{figure}"] = getattr(control, figure).value
    return {key: float(value) for key, value in found.items() if value is not None}


def read(directory: Path, system: str) -> Any:
    """The controllability of one system from an evaluation's output."""
    from moslim_core.evaluation.controllability import Controllability

    return Controllability.model_validate_json((directory / f"controllability.{system}.json").read_bytes())


@task(name="evaluate", cache_policy=NO_CACHE)
def evaluate(settings: Settings, rows: ArtifactRef, policy: ArtifactRef, judge: ArtifactRef | None, parent: str | None) -> Outcome:
    """The policy and the starting model answer the same requests; an independent judge says what was obtained."""
    inputs = {"rows": rows, "policy": policy, **({"judge": judge} if judge else {})}
    return run_stage(STAGE, settings, inputs, parent)
