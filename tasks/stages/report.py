"""Stage `report`: what all stages found -> one self-contained HTML page, the same pictures as PNG."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moslim_core.policy.artifact import TRAINING_LOG
from moslim_core.settings import Settings
from tasks.execution.stage import Job, Stage, read_record, stage_task
from tasks.ledger.references import FINDINGS, ArtifactRef, Outcome
from tasks.stage_list import STAGES
from tasks.stages.evaluate import SYSTEMS, USAGE_FILE

PAGE = "report.html"
FIGURES = "figures"
# Of the answers that repeat their instruction. Above it the page says so.
MOST_REPEATED = 0.02

STAGE = Stage("report", version=15, kind="report", section=Settings.content)


def work(job: Job) -> dict[str, float]:
    """Write the page, its figures and its findings."""
    from moslim_core.report import all_figures, render, save_png, summarise
    from moslim_core.training.progress import Progress

    progress = Progress(job.events)
    content = build_content(job.settings, job.inputs)
    progress.update("drawing the report", 0, 1)
    figures = all_figures(content)
    job.output.mkdir(parents=True)
    (job.output / PAGE).write_text(render(content), encoding="utf-8")
    (job.output / FINDINGS).write_text(summarise(content).model_dump_json(indent=1), encoding="utf-8")
    (job.output / FIGURES).mkdir()
    for name, figure in figures.items():
        save_png(figure, job.output / FIGURES / f"{name}.png")
    progress.update("drawing the report", 1, 1)
    return {}


def build_content(settings: Settings, inputs: dict[str, Path]) -> Any:
    """What the page shows, from the stages' outputs."""
    from moslim_core.evaluation.suite import read_agreement, read_attack, read_benchmarks, read_control, read_front, read_together
    from moslim_core.judging.endpoint import Usage
    from moslim_core.models.identity import public_name
    from moslim_core.policy.artifact import PolicyCard
    from moslim_core.report import Both, ReportContent
    from moslim_core.reward.metrics import read_choices, read_metrics

    evaluation, card = inputs["evaluation"], PolicyCard.load(inputs["policy"])
    usage = evaluation / USAGE_FILE
    records = {name: read_record(path) for name, path in inputs.items()}
    notes = []
    if settings.evaluation.judge == "annotators":
        notes.append("The judge's rules also labelled the reward model's data; the reward model itself was never the judge.")
    training = training_points(inputs["policy"] / TRAINING_LOG)
    done = int(training[-1]["step"]) if training else 0
    if settings.policy.max_minutes is not None and done < settings.policy.steps:
        notes.append(
            f"Training ended after {done} of {settings.policy.steps} steps, at policy.max_minutes={settings.policy.max_minutes:g}."
        )
    before, after = (read_control(evaluation, system) for system in SYSTEMS)
    calm, attacked = (read_attack(evaluation, system) for system in SYSTEMS)
    apart, combined = (read_together(evaluation, system) for system in SYSTEMS)
    start, trained = (read_front(evaluation, system) for system in SYSTEMS)
    if after.truncated > 0.2:
        notes.append(
            f"{after.truncated:.0%} of the policy's and {before.truncated:.0%} of the starting model's answers were cut at "
            f"policy.max_new_tokens={settings.policy.max_new_tokens}; what stands above describes the cut text."
        )
    if after.repeats_instruction > MOST_REPEATED:
        notes.append(
            f"{after.repeats_instruction:.0%} of the policy's and {before.repeats_instruction:.0%} of the starting model's answers repeat "
            "words of their instruction, which a rule or a reward model may take for what was asked: read them before the figures."
        )
    return ReportContent(
        title=f"One policy, {len(settings.preferences)} preferences: {public_name(settings.model.base)}",
        created=datetime.now(UTC).isoformat(timespec="minutes"),
        preferences=settings.preferences,
        trained=f"{card.optimiser}, {card.steps} steps, seed {settings.seed}",
        before=before,
        after=after,
        judge=json.loads((evaluation / "judge.json").read_text(encoding="utf-8"))["describe"],
        training=training,
        reward_heads=read_metrics(inputs["reward_model"]),
        reward_choices=read_choices(inputs["reward_model"]),
        samples=_samples(settings, evaluation),
        fronts=Both(before=start, after=trained) if start and trained else None,
        together=Both(before=apart, after=combined) if apart and combined else None,
        attack=Both(before=calm, after=attacked) if calm and attacked else None,
        benchmarks=_paired(read_benchmarks, evaluation),
        agreement=_paired(read_agreement, evaluation),
        second_judge=_second_judge(settings),
        judge_usage=Usage.model_validate_json(usage.read_text(encoding="utf-8")) if usage.exists() else None,
        data_card=json.loads((inputs["rows"] / "data_card.json").read_text(encoding="utf-8")),
        seconds={name: records[of.gives]["seconds"] for name, of in STAGES.items() if of.gives in records},
        peak_memory_gb=max(record["peak_memory_gb"] for record in records.values()),
        settings=settings.content(),
        notes=notes,
    )


def training_points(path: Path) -> list[dict[str, float]]:
    """One dict per step; a step that a resumed run repeated counts once, as it was last."""
    from moslim_core.data.rows import read_json_lines

    points = {e["step"]: {"step": e["step"], **e["values"]} for _, e in read_json_lines(path) if e["event"] == "metrics"}
    return [points[step] for step in sorted(points)]


def _paired(read: Callable[[Path, str], dict[str, Any]], evaluation: Path) -> dict[str, Any]:
    """What `read` finds by name, of both systems beside each other."""
    from moslim_core.report import Both

    before, after = (read(evaluation, system) for system in SYSTEMS)
    return {name: Both(before=before[name], after=result) for name, result in after.items()}


def _second_judge(settings: Settings) -> str:
    chosen = settings.evaluation
    names = {"annotators": "the schema's rules", "reward_model": "a second reward model", None: ""}
    return names.get(chosen.second_judge, f"the language model {chosen.endpoint.model}")


def _samples(settings: Settings, evaluation: Path) -> list[Any]:
    """One prompt's answers at every level of each steered preference, side by side: the prompt whose answers by the policy are off by the
    median error."""
    from moslim_core.data.rows import load_prompts, plain_text
    from moslim_core.evaluation.suite import read_answers
    from moslim_core.report import Sample, SampleRow, median_prompt

    prompts = [plain_text(prompt) for prompt in load_prompts(evaluation / "prompts.jsonl")]
    before, after = (
        {(row.prompt, *row.targets.items()): row for row in read_answers(evaluation, system) if len(row.targets) == 1} for system in SYSTEMS
    )
    chosen = median_prompt(list(after.values()), settings.preferences)
    samples = []
    for preference in settings.preferences.preferences:
        if preference.is_guard or chosen is None:
            continue
        rows = []
        for level in preference.requestable:
            old, new = (of[chosen, (preference.name, level)] for of in (before, after))
            rows.append(
                SampleRow(
                    level=level,
                    before=old.shown,
                    after=new.shown,
                    before_obtained=old.levels.get(preference.name),
                    after_obtained=new.levels.get(preference.name),
                )
            )
        samples.append(Sample(prompt=prompts[chosen], preference=preference.name, rows=rows))
    return samples


def report(settings: Settings, inputs: dict[str, ArtifactRef], parent: str | None) -> Outcome:
    """What all stages found -> one self-contained HTML page, the same pictures as PNG."""
    return stage_task(STAGE, settings, inputs, parent)
