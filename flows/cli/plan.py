"""`moslim plan`: what a run would do and cost, as a table or as JSON."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from rich.console import Console
from rich.table import Table

from flows.cli.printed_commands import with_settings
from moslim_core.errors import UserError
from moslim_core.settings import Settings
from tasks.planning.plan import HOW, Plan, plan
from tasks.surroundings import environment

# So few rows are split as a run would split them before it is planned, which takes a moment.
FEW_ROWS = 1000


def show(settings: Settings, profile: str, overrides: Sequence[str], card: str | None, json: bool) -> None:
    """Print it, for this machine or for a GPU of cost.CARDS. Raises UserError where the rows or the models can't be read."""
    planned = plan(settings, card)
    if planned.rows < FEW_ROWS and not planned.stages[0].reused:
        _require_splits(settings)
    if json:
        typer.echo(planned.model_dump_json(indent=1))
        return
    console = Console()
    console.print(_table(planned))
    console.print(
        f"on {planned.device} in {planned.dtype}; memory free {planned.memory_free_gb:.0f} GB, disk {planned.disk_free_gb:.0f} GB\n"
        f"{planned.how}\nnext     {with_settings('run', profile=profile, overrides=overrides)}",
        highlight=False,
        soft_wrap=True,
    )
    for what, needed, free in (("memory", planned.memory_gb, planned.memory_free_gb), ("disk", planned.disk_gb, planned.disk_free_gb)):
        if needed > free:
            typer.echo(f"warning: about {needed:.1f} GB of {what} are needed, and {free:.1f} GB are free.", err=True)


def _require_splits(settings: Settings) -> None:
    """Raises UserError where the label stage would refuse the rows: so few may leave a split without some preference."""
    from moslim_core.data.preview import preview

    if (refused := preview(settings, environment.model_cache(settings.work_dir)).refused) is not None:
        raise UserError(refused)


def show_comparison(settings: Settings, baselines: str, seeds: str, search: str | None, json: bool) -> None:
    """Print the plan of a comparison. Raises UserError on a bad name, seed or factor, or where the rows or the models can't be read."""
    from flows.cli.compare_arguments import parse_baselines, parse_search, parse_seeds
    from tasks.planning.plan_comparison import plan_comparison

    names, numbers = parse_baselines(baselines), parse_seeds(seeds)
    planned = plan_comparison(settings, names, numbers, parse_search(search) if search else [])
    if json:
        typer.echo(planned.model_dump_json(indent=1))
        return
    table = Table(title=f"{planned.sentence[0].upper()}{planned.sentence[1:]}", title_justify="left")
    table.add_column("system")
    for seed in numbers:
        table.add_column(f"seed {seed}")
    for name in names:
        told = {system.seed: "here" if system.reused else minutes(system.seconds) for system in planned.systems if system.name == name}
        table.add_row(name, *(told[seed] for seed in numbers))
    if planned.shared_seconds:
        table.add_row("labels, reward models", minutes(planned.shared_seconds))
    if planned.search_seconds:
        table.add_row("search for learning rates", minutes(planned.search_seconds))
    Console().print(table)
    Console().print(HOW, highlight=False, soft_wrap=True)


def minutes(seconds: float) -> str:
    """Seconds as a person reads them: "80 s", "12 min" or "1.6 h"."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _table(planned: Plan) -> Table:
    table = Table(title=f"About {minutes(planned.seconds)}, {planned.memory_gb:.1f} GB of memory, {planned.disk_gb:.1f} GB of disk")
    table.title_justify = "left"
    for heading in ("stage", "time", "memory", "tokens drawn", "tokens read", ""):
        table.add_column(heading)
    for stage in planned.stages:
        if stage.reused:
            table.add_row(stage.name, "reused", "", "", "", "")
            continue
        tokens = [f"{n:,}" if n else "" for n in (stage.tokens_drawn, stage.tokens_read)]
        table.add_row(stage.name, minutes(stage.seconds), f"{stage.memory_gb:.1f} GB", *tokens, stage.note)
    return table
