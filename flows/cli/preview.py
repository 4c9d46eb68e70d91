"""`moslim data preview`: what a run would learn from, as tables or as JSON."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.cli.printed_commands import with_settings
from moslim_core.data.preview import PURPOSE, Preview, preview
from moslim_core.settings import Settings
from tasks.surroundings import environment


def show(settings: Settings, profile: str, overrides: Sequence[str], json: bool) -> None:
    """Print it; ends with code 2 where a run would be refused. Raises UserError where the rows can't be read."""
    previewed = preview(settings, environment.model_cache(settings.work_dir))
    if json:
        typer.echo(previewed.model_dump_json(indent=1))
    else:
        _print(previewed)
    if previewed.refused is not None:
        typer.echo(f"error: {previewed.refused}", err=True)
        raise typer.Exit(2)
    if not json:
        typer.echo(f"next     {with_settings('plan', profile=profile, overrides=overrides)}")


def _print(previewed: Preview) -> None:
    console = Console()
    splits = [split for split in PURPOSE if split in previewed.rows]
    table = Table(title="Splits: a prompt is in one of them only", title_justify="left")
    for heading in ("split", "rows", "prompts", "used to"):
        table.add_column(heading)
    for split in splits:
        table.add_row(split, str(previewed.rows[split]), str(previewed.prompts.get(split, 0)), PURPOSE[split])
    table.add_row("all", str(sum(previewed.rows.values())), str(sum(previewed.prompts.values())), "")
    console.print(table)
    table = Table(title="Rows by level", title_justify="left")
    for heading in ("preference", "level", *splits, "all"):
        table.add_column(heading)
    rated = {of.preference for of in previewed.levels if any(of.rows.values())}
    for name, of_choices in previewed.choices.items():
        table.add_row(name, "chosen over another", *(str(of_choices.get(split, 0)) for split in splits), str(sum(of_choices.values())))
    for of in previewed.levels:
        if of.preference in previewed.choices and of.preference not in rated:
            continue
        first = of.preference if of.level == 1 else ""
        counts = [str(of.rows.get(split, 0)) for split in splits]
        table.add_row(first, f"{of.level} {of.label}", *counts, str(sum(of.rows.values())))
    console.print(table)
    if previewed.examples:
        table = Table("question", "answer", "levels", title="Examples", title_justify="left", show_lines=True)
        for example in previewed.examples:
            levels = [f"{name}: {words}" for name, words in example["levels"].items()]
            table.add_row(_plain(example["question"]), _plain(example["answer"]), Text("\n".join(levels)))
        console.print(table)
    if previewed.policy_prompts:
        sizes = previewed.policy_prompts
        console.print(f"prompts for the policy: {sizes['training']} to train on, {sizes['evaluation']} to be evaluated on", highlight=False)
    for reason, count in previewed.dropped.items():
        console.print(f"dropped: {count} x {reason}", highlight=False, markup=False)
    for bad in previewed.bad_rows:
        console.print(f"  first: {bad['first']}", highlight=False, markup=False)
    for warning in previewed.warnings:
        console.print(f"note: {warning}", highlight=False, markup=False)


def _plain(text: str) -> Text:
    """Somebody's text on one line, with nothing that a terminal, or rich's markup, would take for a command."""
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split())))
