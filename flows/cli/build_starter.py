"""`moslim data build-starter`: the recipe of the packaged starter set."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import typer

from moslim_core.settings import Settings
from tasks.surroundings import environment


def build(settings: Settings, output: Path, raw: Path | None, limit: int | None) -> None:
    """Draw raw answers with the profile's model unless there are some, select from them, label them by its rules, and write `output`."""
    from moslim_core.data import starter
    from moslim_core.data.starter.selection import select

    if raw is None:
        raw = output.with_name("raw.jsonl.gz")
        _draw(settings, raw, limit)
    dropped: Counter[str] = Counter()
    count = starter.write(select(starter.read(raw), settings.preferences, dropped), output)
    typer.echo(f"{count} rows: {output}")
    for reason, number in dropped.most_common():
        typer.echo(f"  {number} left out: {reason}")


def _draw(settings: Settings, raw: Path, limit: int | None) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from moslim_core import models
    from moslim_core.data import starter
    from moslim_core.data.starter.drawing import draw
    from moslim_core.reward.topic import Topic

    cache = environment.model_cache(settings.work_dir)
    # One dtype on one kind of device, whatever is fastest here: the same seed has to give the same texts.
    model, tokenizer = models.load_chat_model(settings.model.base, cache, "float32", "cpu")
    resume_file = raw.with_name(f"{raw.name}.kept")
    with Progress(console=Console(stderr=True)) as bars:
        bar = bars.add_task("sampling answers", total=None)
        drawn = list(
            draw(
                model,
                tokenizer,
                starter.prompts()[:limit],
                settings.seed,
                answers_file=resume_file,
                on_progress=lambda done, total: bars.update(bar, completed=done, total=total),
            )
        )
    about = Topic(cache)([row["prompt"] for row in drawn], [row["response"] for row in drawn])
    starter.write(({**row, "topic": topic} for row, topic in zip(drawn, about, strict=True)), raw)
    resume_file.unlink()
