"""Stage `evaluate`: the policy and the starting model answer the same requests; an independent judge says what was obtained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moslim_core import registry
from moslim_core.errors import UserError
from moslim_core.settings import Settings
from moslim_core.settings_section import changed
from tasks.execution.stage import Check, Job, Stage, stage_task, unchecked
from tasks.ledger.of_work_dir import folder_of, ledger_of
from tasks.ledger.references import ArtifactRef, Outcome, digest_of, intact_digest, path_digest
from tasks.ledger.shared_answers import shared
from tasks.surroundings import environment

if TYPE_CHECKING:
    from moslim_core.evaluation.judges import Judge
    from moslim_core.judging.endpoint import Endpoint
    from moslim_core.preferences import PreferenceSchema

# `before` is the starting model under the same instructions and no RL.
SYSTEMS = {"before": "the starting model", "after": "the policy"}
USAGE_FILE = "judge_usage.json"
# How fast and at what price a language model is asked changes no verdict.
UNCOUNTED = {"concurrency", "timeout_seconds", "attempts", "input_price", "output_price"}


def _section(settings: Settings) -> dict[str, Any]:
    dumped = settings.dump()
    # Of policy, models and files the content counts, not the place; the judge is an input.
    evaluation = settings.evaluation.model_dump(
        mode="json",
        exclude={
            "policy": True,
            "data_dir": True,
            "judge_backbone": True,
            "endpoint": UNCOUNTED,
        },
    )
    return {
        "evaluation": evaluation,
        "benchmark_digests": benchmark_digests(settings),
        "near_duplicates": settings.data.near_duplicates,
        "model": dumped["model"] | {"base": environment.model_of(settings.model.base, settings).id.digest},
        "preferences": dumped["preferences"],
        "seed": settings.seed,
    }


def benchmark_digests(settings: Settings) -> dict[str, str | None]:
    """Of the files that the suite's benchmarks may read."""
    folder = settings.evaluation.data_dir
    if folder is None:
        return {}
    benchmarks = [registry.benchmark[name] for name in settings.evaluation.suite if name not in registry.benchmark.also]
    return {file.name: path_digest(folder / file.name) for of in benchmarks for file in (*of.files, *of.judged_files)}


STAGE = Stage("evaluate", version=16, kind="evaluation", section=_section)


def work(job: Job) -> dict[str, float]:
    """Measure the starting model and the policy by all that the suite names; their key numbers."""
    from moslim_core import models
    from moslim_core.evaluation.suite import Benchmarks, Control, Part
    from moslim_core.evaluation.system import System
    from moslim_core.policy.artifact import PolicyCard, load_policy
    from moslim_core.reward.topic import Topic
    from moslim_core.training.progress import Progress

    settings, rows = job.settings, job.inputs["rows"]
    chosen, card = settings.evaluation, PolicyCard.load(job.inputs["policy"])
    endpoint = endpoint_of(job)
    job.output.mkdir(parents=True)
    parts: list[Part] = []
    benchmarks: Benchmarks | None = None
    if "controllability" in chosen.suite:
        judges = [_judge(name, job, card.preferences, endpoint) for name in chosen.judges]
        (job.output / "judge.json").write_text(json.dumps({"describe": judges[0].describe}), encoding="utf-8")
        topic = Topic(job.cache) if chosen.topic else None
        parts.append(Control(settings.evaluation, card, rows, judges, job.output, topic))
    if set(chosen.suite) - {"controllability"}:
        benchmarks = Benchmarks(
            chosen, card.preferences, card.max_new_tokens, rows, endpoint, job.cache, job.output, settings.data.near_duplicates
        )
        parts.append(benchmarks)
    metrics: dict[str, float] = {}
    base = card.start(job.inputs["policy"], job.cache)
    for name, label in SYSTEMS.items():
        if name == "before":
            model, tokenizer = models.load_chat_model(base, job.cache, settings.model.dtype, settings.model.device)
            content: list[str | None] = [card.base.digest]
        else:
            model, tokenizer, _ = load_policy(job.inputs["policy"], job.cache, settings.model.dtype, settings.model.device)
            content.append(intact_digest(job.inputs["policy"]) or path_digest(job.inputs["policy"]))
        with shared(job.checkpoints / name, _store(job, content)) as answers_dir:
            system = System(label, model, tokenizer, card.preferences, card.placement, settings.seed, answers_dir, Progress(job.events))
            for part in parts:
                metrics |= {f"{name}/{key}": float(value) for key, value in part.of(name, system).items() if value is not None}
        del model, system
    if benchmarks is not None and benchmarks.replies:
        # Once more, as one model at a time is in memory.
        model, tokenizer = models.load_chat_model(base, job.cache, settings.model.dtype, settings.model.device)
        for name in SYSTEMS:
            fluency = benchmarks.of_fluency(name, model, tokenizer, settings.seed)
            metrics |= {f"{name}/{key}": value for key, value in fluency.items() if value is not None}
    if endpoint is not None:
        (job.output / USAGE_FILE).write_text(endpoint.usage.model_dump_json(indent=1), encoding="utf-8")
        metrics |= {f"judge/{name}": float(value) for name, value in endpoint.usage.model_dump().items()}
    return metrics


def _store(job: Job, content: list[str | None]) -> Path:
    """Where the answers of a model with that content are kept for all evaluations on such a machine, under one seed."""
    drawn_by = {
        "content": content,
        "dtype": job.settings.model.dtype,
        "device": job.settings.model.device,
        "seed": job.settings.seed,
        "packages": environment.versions(),
    }
    return job.settings.work_dir / "cache" / "answers" / digest_of(drawn_by)


def endpoint_of(job: Job) -> Endpoint | None:
    """The language model that judges, None where the settings name none."""
    from moslim_core.judging.endpoint import Endpoint

    chosen = job.settings.evaluation.endpoint
    return Endpoint(chosen, job.cache / "judge.sqlite") if chosen.model else None


def judge_of(job: Job) -> Judge:
    """The judge whose verdicts count, for a stage that has `judge` among its inputs where that is a reward model."""
    return _judge(job.settings.evaluation.judge, job, job.settings.preferences, endpoint_of(job))


def _judge(name: str, job: Job, schema: PreferenceSchema, endpoint: Endpoint | None) -> Judge:
    from moslim_core import models
    from moslim_core.evaluation.judges import AnnotatorJudge, EndpointJudge, RewardModelJudge
    from moslim_core.reward.scorer import RewardScorer

    if name == "annotators":
        return AnnotatorJudge(schema)
    if name == "openai":
        assert endpoint is not None, "the settings ask for the endpoint's model"
        return EndpointJudge(schema, endpoint)
    return RewardModelJudge(RewardScorer.load(job.inputs["judge"], models.pick_device(job.settings.model.device)))


def given_policy(settings: Settings) -> tuple[ArtifactRef, Settings]:
    """(the policy that `evaluation.policy` names, the settings with the preferences that it was trained for). Raises UserError."""
    from moslim_core.policy.artifact import PolicyCard

    reference = str(settings.evaluation.policy)
    folder = folder_of(reference, settings.work_dir)
    recorded = reference.startswith(("runs:/", "models:/"))
    if settings.placement == "pools" and not recorded:
        raise UserError(
            f"evaluation.policy={reference} is a folder of this machine, but with placement=pools another one reads it.\n"
            "Give runs:/RUN/output or models:/NAME@ALIAS, or set placement=inline."
        )
    schema = PolicyCard.load(folder).preferences
    try:
        schema.targets(settings.evaluation.targets)
    except UserError as error:
        raise UserError(f"evaluation.targets does not fit {folder}: {error}") from error
    digest = intact_digest(folder) or str(path_digest(folder))
    ledger = ledger_of(settings.work_dir)
    # Where the store has it now: an alias may move before another machine reads it.
    uri = ledger.place(reference) if recorded else str(folder)
    # What a run made is named by the run, wherever its folder lies.
    ref = ledger.made("train_policy", digest) or ArtifactRef(kind="policy", uri=uri, digest=digest, run_id="")
    # The policy is what it is; weights of preferences that it does not have say nothing about it.
    weights = {name: weight for name, weight in settings.mapping.weights.items() if name in schema.names}
    return ref, changed(settings, preferences=schema, mapping=changed(settings.mapping, weights=weights))


def evaluate(
    settings: Settings, rows: ArtifactRef, policy: ArtifactRef, judge: ArtifactRef | None, parent: str | None, check: Check = unchecked
) -> Outcome:
    """The policy and the starting model answer the same requests; an independent judge says what was obtained."""
    inputs = {"rows": rows, "policy": policy, **({"judge": judge} if judge else {})}
    return stage_task(STAGE, settings, inputs, parent, check)
