"""The command line's account of the settings: the few that people change, in a command's help, and all of them by `moslim settings`."""

from __future__ import annotations

import json as to_json
from difflib import get_close_matches
from typing import Annotated

import typer

from flows.cli.options import JsonOption, user_errors
from moslim_core.errors import UserError
from moslim_core.settings import described

# Those that people change, in the order of a run.
COMMON = (
    "work_dir",
    "seed",
    "data.source",
    "data.path",
    "data.limit",
    "data.bad_rows",
    "annotation.fill",
    "model.base",
    "model.device",
    "reward.backbone",
    "reward.epochs",
    "reward.max_length",
    "policy.optimiser",
    "policy.prompts",
    "policy.steps",
    "policy.max_minutes",
    "policy.max_new_tokens",
    "policy.learning_rate",
    "evaluation.judge",
    "evaluation.limit",
)


def common_settings() -> str:
    """For --help; backslash-b keeps the lines as they are."""
    known = {key: (default, what) for keys in described().values() for key, default, what in keys}
    named = [key for key, (_, what) in known.items() if "\n" in what and key not in COMMON]
    parts = {
        "Settings that people change, with their defaults (all: moslim settings):": COMMON,
        "Others that take names, a plug-in's too:": named,
    }
    return "\n\n".join("\n".join(["\b", title, *(_told(key, *known[key]) for key in keys)]) for title, keys in parts.items())


def _told(key: str, default: str, what: str) -> str:
    """In a line, and one for each name that the setting takes."""
    first, *names = what.split("\n")
    return "\n      ".join([f"  {key} = {default}  {first.partition('; ')[0]}", *names])


def add_to(app: typer.Typer) -> None:
    """Make these commands of `app`."""
    app.command()(settings)


@user_errors
def settings(
    section: Annotated[str | None, typer.Argument(help="a part of them, e.g. policy or policy.ppo; or one key; default: all")] = None,
    json: JsonOption = False,
) -> None:
    """What --set and profiles take: every setting with its default and what it is."""
    matching = {
        about: [entry for entry in keys if section is None or entry[0] == section or entry[0].startswith(f"{section}.")]
        for about, keys in described().items()
    }
    matching = {about: keys for about, keys in matching.items() if keys}
    if not matching:
        every = [key for keys in described().values() for key, _, _ in keys]
        sections = sorted({key.rpartition(".")[0] for key in every} - {""})
        near = get_close_matches(str(section), [*every, *sections], n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(sections)}."
        raise UserError(f"{section} is no setting and no section.\n{hint}")
    if json:
        rows = [{"key": key, "default": default, "what": what} for keys in matching.values() for key, default, what in keys]
        typer.echo(to_json.dumps(rows, indent=1))
        return
    for about, keys in matching.items():
        typer.echo(about)
        for key, default, what in keys:
            typer.echo(f"  {key} = {default}\n{what}".replace("\n", "\n      "))
