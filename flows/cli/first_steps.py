"""The command line's first steps: a profile from one's own rows, and what a run would make of it before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import JsonOption, ProfileOption, SetOption, settings_of, user_errors
from moslim_core.cost import CARDS
from moslim_core.errors import UserError


def add_to(app: typer.Typer, data_app: typer.Typer) -> None:
    """Make these commands of `app`; `data_app` holds those about data."""
    app.command()(init)
    data_app.command()(preview)
    app.command()(plan)
    app.command()(sample)


@user_errors
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="rows of yours: CSV, TSV, JSON, JSON lines or Parquet")],
    output: Annotated[Path, typer.Option("--output", "-o", help="profile to write; one that is there is never overwritten")] = Path(
        "mine.yaml"
    ),
    levels: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=WORD,...", help="the order of a column's words, lowest first; may be given often"),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a commented profile for your own rows: columns, preferences and levels as they look, models as this machine has room for."""
    from flows.cli.init_profile import write

    write(file, output, levels or [], json)


@user_errors
def preview(profile: ProfileOption = "demo", set_: SetOption = None, json: JsonOption = False) -> None:
    """Rows, levels, splits, and what is dropped and why, before anything is trained."""
    from flows.cli.preview import show

    show(settings_of(profile, set_), profile, set_ or [], json)


@user_errors
def plan(
    profile: ProfileOption = "demo",
    set_: SetOption = None,
    baselines: Annotated[
        str | None, typer.Option(metavar="A,B", help="plan moslim compare --baselines A,B in place of a run; or all")
    ] = None,
    seeds: Annotated[str | None, typer.Option(metavar="N,N,N", help="with --baselines: the comparison's seeds [default: 0,1,2]")] = None,
    search: Annotated[str | None, typer.Option(metavar="F,F", help="with --baselines: factors of learning rates to try")] = None,
    on: Annotated[str | None, typer.Option(metavar="GPU", help=f"plan for a GPU that need not be here: {', '.join(CARDS)}")] = None,
    json: JsonOption = False,
) -> None:
    """What a run, or a comparison of systems, would do and cost here: what is reused, minutes, memory, disk and tokens."""
    from flows.cli.plan import show, show_comparison

    settings = settings_of(profile, set_)
    if baselines is None and seeds is not None:
        raise UserError(f"--seeds {seeds}: they belong to a comparison; give --baselines too, or --set seed=N for a run's.")
    if baselines is None and search is not None:
        raise UserError(f"--search {search}: learning rates are searched for systems; give --baselines too.")
    if baselines is None:
        show(settings, profile, set_ or [], on, json)
    elif on is not None:
        raise UserError("--on plans a run, and --baselines a comparison: give one of them.")
    else:
        show_comparison(settings, baselines, seeds or "0,1,2", search, json)


@user_errors
def sample(
    prompts: Annotated[Path, typer.Option("--prompts", help="prompts to answer: CSV, TSV, JSON lines or Parquet with a column prompt")],
    profile: ProfileOption = "demo",
    set_: SetOption = None,
    answers: Annotated[int, typer.Option("--answers", min=1, help="answers to each prompt, each under a wish for one level")] = 8,
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON lines file of rated rows to write")] = Path("rows.jsonl"),
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", metavar="URL", help="draw from an OpenAI-compatible address in place of the profile's model")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="with --endpoint: the model's name there")] = None,
    json: JsonOption = False,
) -> None:
    """Draw answers at every level from a chat model and label them: rated rows for who has prompts only. The same command resumes."""
    from flows.cli.sample import sample as draw

    if (endpoint is None) != (model is None):
        raise UserError("--endpoint URL and --model NAME go together, and one was given without the other.\nGive both, or none.")
    served = (endpoint, model) if endpoint is not None and model is not None else None
    draw(settings_of(profile, set_), profile, set_ or [], prompts, answers, output, served, json)
