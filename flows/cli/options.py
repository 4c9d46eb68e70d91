"""What the commands share: their common options, and how an error reaches a person."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import profile as profiles
from moslim_core.errors import UserError
from tasks.surroundings import environment

ProfileOption = Annotated[
    str, typer.Option("--profile", "-p", help=f"packaged profile ({', '.join(profiles.packaged())}) or path of a YAML file")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="override one setting, e.g. policy.steps=40; may be given often"),
]
WorkDirOption = Annotated[Path, typer.Option("--work-dir", help="folder that holds all runs, models and reports")]
PolicyOption = Annotated[str, typer.Option("--policy", help="a folder, runs:/... or models:/name@alias")]
BaseOption = Annotated[
    str | None, typer.Option(help="where its base model is, if that was a folder which this work directory does not know")
]
JsonOption = Annotated[bool, typer.Option("--json", help="for machines: one JSON object on standard output")]


def user_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a UserError into at most three lines on standard error and exit code 2."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except UserError as error:
            told = error
        except Exception as error:
            from tasks.ledger.ledger import store_error

            known = store_error(error)
            if known is None:
                raise
            told = known
        typer.echo(f"error: {told}", err=True)
        raise typer.Exit(2)

    return wrapped


def settings_of(profile: str, overrides: list[str] | None) -> Any:
    """The settings that a command was given, with their work directory made ready. Raises UserError."""
    return environment.prepared(profiles.load(profile, overrides or []))


def of_runs(work_dir: Path) -> Path:
    """The work directory of runs that are over, made ready. Raises UserError where it is none: a mistyped name makes no new one."""
    from tasks.ledger.ledger import named_store

    # Runs that a server keeps are known in any work directory.
    return environment.prepare(work_dir) if named_store() else environment.existing(work_dir)


def home_of(reference: str | None, work_dir: Path) -> Path:
    """The work directory for a reference (None: to what its runs made), made ready; what the reference names is not fetched.

    Raises UserError, before it makes a work directory, where there is no such folder or no work directory of runs.
    """
    from tasks.ledger.of_work_dir import folder_of, is_of_run

    if reference is None or is_of_run(reference):
        return of_runs(work_dir)
    folder_of(reference, work_dir)
    return environment.prepare(work_dir)


def opened(reference: str, work_dir: Path) -> tuple[Path, Path]:
    """(`home_of` a reference; its folder: itself, or of `runs:/...` and `models:/...` a copy below the first). Raises UserError."""
    from tasks.ledger.of_work_dir import folder_of

    home = home_of(reference, work_dir)
    return home, folder_of(reference, home)
