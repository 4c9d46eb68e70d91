"""`moslim sample`: answers of a chat model to a file of prompts, under wishes for every level, labelled by the profile's annotators."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from flows.cli.printed_commands import with_settings
from flows.cli.waiting import Waiting
from moslim_core.data.annotation import Annotation
from moslim_core.data.drawn_answers import Drawing, draw, spread
from moslim_core.data.rows import Row, prompt_key
from moslim_core.data.sources import prompts as read_prompts
from moslim_core.errors import UserError
from moslim_core.preferences import Message, PreferenceSchema
from moslim_core.settings import Settings
from moslim_core.settings_section import changed
from tasks.surroundings import environment

# A level needs rows in training and in every split beside it.
FEW_ROWS = 10


def sample(
    settings: Settings,
    profile: str,
    overrides: Sequence[str],
    prompts: Path,
    answers: int,
    output: Path,
    endpoint: tuple[str, str] | None,
    as_json: bool = False,
) -> None:
    """`drawn`, with a bar, and how the levels are spread. Raises UserError; the same command goes on after a kill.

    `as_json`: say what there is as one object.
    """
    with Waiting(Console(stderr=True)) as waiting:
        rows, dropped = drawn(
            settings,
            prompts,
            answers,
            output,
            endpoint,
            lambda done, total: waiting.update("sample", f"prompts with {answers} answers each", done, total),
        )
    reads = ["data.source=jsonl", f"data.path={output}", *(["data.columns={}"] if settings.data.columns.model_fields_set else [])]
    following = with_settings("label", profile=profile, overrides=[*overrides, *reads])
    if as_json:
        levels = [dict(zip(("preference", "level", "rows", "advice"), of, strict=True)) for of in by_level(rows, settings.preferences)]
        told = {"output": str(output), "rows": len(rows), "left_out": dropped, "levels": levels, "next": following}
        typer.echo(json.dumps(told, indent=1, ensure_ascii=False))
        return
    _tell(rows, settings.preferences)
    for reason, count in dropped.items():
        typer.echo(f"left out: {count} x {reason}")
    typer.echo(f"{len(rows)} rows: {output}\nnext     {following}")


def drawn(
    settings: Settings,
    prompts: Path,
    answers: int,
    output: Path,
    endpoint: tuple[str, str] | None,
    on_progress: Callable[[int, int], None],
) -> tuple[list[Row], Counter[str]]:
    """Draw `answers` to each prompt of a file, label them, and write `output`; the rows, and how many answers were left out, by reason.

    `endpoint`: (address, model) to draw from in place of the settings' chat model; `on_progress` is told prompts done and all. Raises
    UserError; the same call goes on after a kill.
    """
    if os.path.lexists(output):
        raise UserError(f"{output} is there already, and nothing is overwritten.\nGive another name: --output FILE.jsonl")
    if not output.name.endswith(".jsonl") or not output.absolute().parent.is_dir():
        raise UserError(f"--output {output}: a file of JSON lines in a folder that is there.\nGive one: --output rows.jsonl")
    settings = _labelling(settings)
    if not os.path.exists(prompts):
        raise UserError(f"--prompts {prompts}: there is no such file.\nGive a file of prompts: CSV, TSV, JSON lines or Parquet.")
    distinct_prompts = {prompt_key(prompt): prompt for _, prompt in read_prompts(prompts)}
    annotation = Annotation.of(
        settings.annotation, settings.preferences, settings.model.device, settings.work_dir / "cache" / "answers.sqlite"
    )
    drawing, told = _endpoint(settings, *endpoint) if endpoint else _model(settings)
    rows, dropped = draw(
        list(distinct_prompts.values()),
        settings.preferences,
        answers,
        drawing,
        annotation,
        output,
        settings.seed,
        [told, settings.annotation.model_dump(mode="json")],
        on_progress,
    )
    if not rows:
        output.unlink(missing_ok=True)
        why = ", ".join(f"{count} x {reason}" for reason, count in dropped.items())
        raise UserError(f"none of the answers can be used: {why}.\nRaise policy.max_new_tokens, or take another model or other prompts.")
    return rows, dropped


def _labelling(settings: Settings) -> Settings:
    """With somebody who says levels: as the settings name them, else the rules."""
    chosen = settings.annotation
    if not chosen.fill:
        unruled = [p.name for p in settings.preferences.preferences if p.annotator is None]
        if unruled:
            raise UserError(
                f"nobody says the levels of {', '.join(unruled)}: no rule, and annotation.fill names no one.\n"
                "Take a reward model (--set annotation.fill=reward_model --set annotation.reward_model=.moslim/latest/reward_model), "
                "or a judge (--set annotation.fill=judge --set annotation.judge.model=NAME --set annotation.judge.base_url=URL)."
            )
        chosen = changed(chosen, fill=("rules",))
    return changed(settings, annotation=changed(chosen, agreement_sample=0))


def _model(settings: Settings) -> tuple[Drawing, dict[str, Any]]:
    """The profile's chat model on this machine, and what its answers depend on."""
    from moslim_core import models
    from moslim_core.policy.generation import Sampling, generate

    cache = environment.model_cache(settings.work_dir)
    model, tokenizer = models.load_chat_model(settings.model.base, cache, settings.model.dtype, settings.model.device)
    sampling = Sampling(settings.policy.max_new_tokens, settings.policy.temperature, settings.evaluation.batch_size)

    def drawing(conversations: Sequence[list[Message]], seed: int) -> list[tuple[str, bool]]:
        return [(a.text, not a.truncated) for a in generate(model, tokenizer, conversations, sampling, seed)]

    return drawing, {"model": environment.model_of(settings.model.base, settings).id.digest, "sampling": list(sampling)}


def _endpoint(settings: Settings, url: str, name: str) -> tuple[Drawing, dict[str, Any]]:
    """A model behind an OpenAI-compatible address; what it answered once is not paid for again."""
    from moslim_core.judging.endpoint import Endpoint, Question
    from moslim_core.judging.settings import JudgeSettings

    try:
        of = JudgeSettings(base_url=url, model=name, max_tokens=settings.policy.max_new_tokens, temperature=settings.policy.temperature)
    except ValueError as error:
        raise UserError(f"--endpoint {url}: no address.\nWrite http://HOST:PORT/v1 or https://HOST/v1, without a key in it.") from error
    server = Endpoint(of, settings.work_dir / "cache" / "answers.sqlite")

    def drawing(conversations: Sequence[list[Message]], seed: int) -> list[tuple[str, bool]]:
        # The same words asked twice are to bring two answers: the version tells them apart.
        answers = server.ask([Question(c, None, f"sample-{seed}-{n}") for n, c in enumerate(conversations)])
        return [(answer["text"], answer["finish_reason"] == "stop") if answer else ("", False) for answer in answers]

    return drawing, {"endpoint": url, "model": name, "sampling": [of.max_tokens, of.temperature]}


def by_level(rows: Sequence[Row], schema: PreferenceSchema) -> Iterator[tuple[str, int, int, str]]:
    """(preference, level, how many rows have it, what to do where those are too few), of every level."""
    for name, counts in spread(rows, schema).items():
        for level, count in enumerate(counts, start=1):
            yield name, level, count, "too few: more prompts or answers, or join levels" if count < FEW_ROWS else ""


def _tell(rows: Sequence[Row], schema: PreferenceSchema) -> None:
    table = Table(title="Rows by level", title_justify="left")
    for heading in ("preference", "level", "rows", ""):
        table.add_column(heading)
    for name, level, count, few in by_level(rows, schema):
        table.add_row(name if level == 1 else "", f"{level} {schema[name].label(level)}", str(count), few)
    Console().print(table)
