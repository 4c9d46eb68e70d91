"""`moslim data build-starter`: the recipe of the packaged starter set."""

from __future__ import annotations

from pathlib import Path

import typer

from moslim_core.settings import Settings
from tasks import environment


def build(settings: Settings, output: Path, limit: int | None) -> None:
    """Sample answers with the profile's model, label them by its rules, and write `output`."""
    from rich.console import Console
    from rich.progress import Progress

    from moslim_core import models
    from moslim_core.data import starter

    # One dtype on one kind of device, whatever is fastest here: the same seed has to give the same texts.
    model, tokenizer = models.load_chat_model(settings.model.base, environment.model_cache(settings.work_dir), "float32", "cpu")
    with Progress(console=Console(stderr=True)) as bars:
        bar = bars.add_task("sampling answers", total=None)
        rows = starter.build(
            model,
            tokenizer,
            settings.preferences,
            settings.seed,
            limit,
            on_progress=lambda done, total: bars.update(bar, completed=done, total=total),
        )
        count = starter.write(rows, output)
    typer.echo(f"{count} rows: {output}")
