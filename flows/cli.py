"""The command line: `moslim`. Imports stay light until a command needs more; errors a user can mend end with code 2."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows import profile as profiles
from moslim_core.baselines import METHODS
from moslim_core.errors import UserError
from moslim_core.settings import described
from tasks import environment, network, terminal

if TYPE_CHECKING:
    from flows.align import StageName

app = typer.Typer(
    name="moslim",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Data sets that come with the package.", no_args_is_help=True)
reward_app = typer.Typer(help="Train the multi-head reward model (with what it needs).", invoke_without_command=True)
app.add_typer(data_app, name="data")
app.add_typer(reward_app, name="reward")

ProfileOption = Annotated[
    str, typer.Option("--profile", "-p", help=f"packaged profile ({', '.join(profiles.packaged())}) or path of a YAML file")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="override one setting, e.g. policy.steps=40; may be given often"),
]
WorkDirOption = Annotated[Path, typer.Option("--work-dir", help="folder that holds all runs, models and reports")]


def user_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a UserError into at most three lines on standard error and exit code 2."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except UserError as error:
            told = error
        except Exception as error:
            from tasks.ledger import store_error

            known = store_error(error)
            if known is None:
                raise
            told = known
        typer.echo(f"error: {told}", err=True)
        raise typer.Exit(2)

    return wrapped


def _settings(profile: str, overrides: list[str] | None) -> Any:
    return environment.prepared(profiles.load(profile, overrides or []))


def _run(profile: str, overrides: list[str] | None, until: StageName) -> None:
    from flows.console import run_with_display

    run_with_display(_settings(profile, overrides), until, profile, overrides or [])


def _keys() -> str:
    """What --set takes, for --help; backslash-b keeps the lines as they are."""
    parts = ["Settings for --set and for profiles, with their defaults:"]
    for about, keys in described().items():
        parts.append("\n".join(["\b", about, *(f"  {key} = {default}  {what}" for key, default, what in keys)]))
    return "\n\n".join(parts)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"moslim {version('moslim')}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="say which version this is")] = False,
) -> None:
    """One chat policy that follows many preferences at many intensities, stated in the prompt."""


@app.command(epilog=_keys())
@user_errors
def run(profile: ProfileOption = "demo", set_: SetOption = None) -> None:
    """The whole path: label, train the reward model, train the policy, evaluate, report."""
    _run(profile, set_, "report")


@app.command()
@user_errors
def label(profile: ProfileOption = "demo", set_: SetOption = None) -> None:
    """Check and split the rated answers, and describe them in a data card."""
    _run(profile, set_, "label")


@reward_app.callback()
@user_errors
def reward(context: typer.Context, profile: ProfileOption = "demo", set_: SetOption = None) -> None:
    """Train the multi-head reward model (and what comes before it)."""
    if context.invoked_subcommand is None:
        _run(profile, set_, "train_reward")


@reward_app.command()
@user_errors
def pairs(
    reward_model: Annotated[str, typer.Option("--reward-model", help="a folder, runs:/... or models:/name@alias")],
    input: Annotated[Path, typer.Option("--input", help="JSON lines with prompt, chosen, rejected and optionally preference")],
    preference: Annotated[
        str | None, typer.Option(help="the head that all pairs are about; default: as each row says, else every head")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="JSON file to write the figures to")] = None,
    work_dir: WorkDirOption = Path(".moslim"),
) -> None:
    """How often each head gives the chosen answer the higher expected score."""
    from flows.scoring import score_pairs

    score_pairs(_folder(reward_model, environment.prepare(work_dir)), input, preference, output)


@app.command()
@user_errors
def policy(profile: ProfileOption = "demo", set_: SetOption = None) -> None:
    """Train the policy (and what comes before it)."""
    _run(profile, set_, "train_policy")


@app.command()
@user_errors
def evaluate(
    profile: ProfileOption = "demo",
    set_: SetOption = None,
    policy: Annotated[
        str | None, typer.Option(help="evaluate this one (a folder, runs:/... or models:/name@alias) in place of the profile's")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(metavar="A,B", help="controllability, mt_bench, halueval2, hackaprompt, xstest; default: the profile's")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="folder with the benchmarks' files")] = None,
) -> None:
    """Measure control and benchmarks of a policy beside the starting model (and run what comes before it)."""
    given = {"policy": policy, "suite": suite, "data_dir": data_dir}
    _run(profile, [*(set_ or []), *(f"evaluation.{key}={value}" for key, value in given.items() if value is not None)], "evaluate")


@app.command()
@user_errors
def compare(
    over: Annotated[
        str | None, typer.Option(metavar="KEY=A,B,C", help="one setting and its values, e.g. reward.head=classification,ordinal")
    ] = None,
    baselines: Annotated[
        str | None, typer.Option(metavar="A,B", help="this project's method beside other systems: all, or some of " + ", ".join(METHODS))
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="N,N,N", help="seeds, each used with every value; intervals need three")] = "0,1,2",
    search: Annotated[
        str | None,
        typer.Option(metavar="F,F", help="with --baselines: factors of the learning rates, e.g. 0.5,1,2; each system keeps its best"),
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="last stage of each run; default: train_reward for data and reward settings, else evaluate")
    ] = None,
    profile: ProfileOption = "demo",
    set_: SetOption = None,
) -> None:
    """One setting at several values, or several systems, under the same seeds: a table with intervals. What was run before is reused."""
    from flows import console

    if (over is None) == (baselines is None):
        raise UserError("give either --over KEY=A,B, to compare values of a setting, or --baselines all, to compare systems.")
    if over is not None:
        if search is not None:
            raise UserError(f"--search {search}: learning rates are searched for systems; --search goes with --baselines.")
        console.compare_with_display(_settings(profile, set_), over, seeds, until)
    elif until is not None:
        raise UserError(f"--until {until}: systems are always compared to the end; --until goes with --over.")
    else:
        console.compare_systems_with_display(_settings(profile, set_), str(baselines), seeds, search)


@app.command()
@user_errors
def chat(
    policy: Annotated[str, typer.Option("--policy", help="a folder, runs:/... or models:/name@alias")],
    prefer: Annotated[str, typer.Option(help="what is asked for, e.g. verbosity=1,warmth=3")] = "",
    message: Annotated[str | None, typer.Option(help="one message to answer; without it, a conversation")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="sampling temperature; 0 is greedy")] = 0.7,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="longest answer, in tokens; default: as trained")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    base: Annotated[
        str | None, typer.Option(help="where its base model is, if that was a folder which this work directory does not know")
    ] = None,
    work_dir: WorkDirOption = Path(".moslim"),
) -> None:
    """Talk to a trained policy under stated preferences."""
    from flows.chat import talk

    home = environment.prepare(work_dir)
    talk(_folder(policy, home), prefer, message, temperature, max_new_tokens, seed, environment.model_cache(home), base)


@app.command()
@user_errors
def score(
    reward_model: Annotated[str, typer.Option("--reward-model", help="a folder, runs:/... or models:/name@alias")],
    input: Annotated[str, typer.Option("--input", help="JSON lines with prompt and response; - for standard input")],
    output: Annotated[str, typer.Option("--output", help="JSON lines file to write; - for standard output")] = "-",
    prefer: Annotated[str, typer.Option(help="targets, e.g. warmth=3: adds the mapped reward (no standardisation)")] = "",
    work_dir: WorkDirOption = Path(".moslim"),
) -> None:
    """Class probabilities and expected levels per row; with --prefer also the reward for these targets."""
    from flows.scoring import score_rows

    score_rows(_folder(reward_model, environment.prepare(work_dir)), input, output, prefer)


NameOption = Annotated[str, typer.Option("--name", help="the policy's name in MLflow's registry")]
WhyOption = Annotated[str, typer.Option("--why", help="the reason, which stays on record")]


@app.command()
@user_errors
def promote(
    policy: Annotated[str, typer.Option("--policy", help="a folder, runs:/... or models:/name@alias")],
    name: NameOption = "policy",
    why: WhyOption = "by hand",
    work_dir: WorkDirOption = Path(".moslim"),
) -> None:
    """Make a trained policy the champion: models:/NAME@champion."""
    from flows.releases import promote_policy

    promote_policy(environment.prepare(work_dir), policy, name, why)


@app.command()
@user_errors
def rollback(name: NameOption = "policy", why: WhyOption = "by hand", work_dir: WorkDirOption = Path(".moslim")) -> None:
    """Make the champion before this one the champion again."""
    from flows.releases import roll_back

    roll_back(environment.prepare(work_dir), name, why)


@app.command()
@user_errors
def ui(work_dir: WorkDirOption = Path(".moslim")) -> None:
    """Serve MLflow and Prefect for this work directory on loopback until Ctrl-C."""
    from flows.ui import serve

    serve(environment.prepare(work_dir))


@app.command()
@user_errors
def up(profile: ProfileOption = "demo", set_: SetOption = None) -> None:
    """Start MLflow, Prefect and a worker per pool on loopback, with a deployment per flow; the profile fills in the forms."""
    from flows.up import bring_up

    bring_up(_settings(profile, set_), profile)


@app.command()
@user_errors
def down(work_dir: WorkDirOption = Path(".moslim")) -> None:
    """Stop all that `moslim up` started."""
    from flows.up import bring_down

    bring_down(environment.prepare(work_dir))


@app.command()
@user_errors
def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be removed, and remove nothing")] = False,
    older_than: Annotated[
        float, typer.Option(min=0.0, metavar="DAYS", help="interrupted attempts, copies and answers that were used since then stay")
    ] = 7.0,
    work_dir: WorkDirOption = Path(".moslim"),
) -> None:
    """Remove what nothing refers to: attempts of stages, locks, copies of outputs, cached answers. Outputs of runs stay."""
    from flows.clean import clean_up

    clean_up(environment.existing(work_dir), older_than, dry_run)


@app.command()
@user_errors
def doctor(
    work_dir: WorkDirOption = Path(".moslim"),
    profile: Annotated[str | None, typer.Option("--profile", "-p", help="also check the models that this profile's run would read")] = None,
    set_: SetOption = None,
) -> None:
    """What is installed, what is missing and how to get it. Ends with code 1 if something needed is missing."""
    from flows.doctor import check

    network.reach_loopback()
    if profile is None and set_:
        raise UserError(f"--set {set_[0]}: settings belong to a profile; give --profile too, e.g. --profile demo.")
    raise typer.Exit(0 if check(work_dir, profiles.load(profile, set_ or []) if profile else None) else 1)


@data_app.command("build-starter")
@user_errors
def build_starter(
    output: Annotated[Path, typer.Option(help="file to write (.jsonl.gz)")] = Path("starter.jsonl.gz"),
    profile: ProfileOption = "demo",
    set_: SetOption = None,
    raw: Annotated[Path | None, typer.Option(help="select from these raw answers; default: draw, beside the output")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="draw answers to the first n prompts only")] = None,
) -> None:
    """Sample, select and label the starter set anew, with the packaged model and the profile's rules."""
    from flows.starter import build

    build(_settings(profile, set_), output, raw, limit)


def _folder(reference: str, work_dir: Path) -> Path:
    from tasks.stage import folder_of

    return folder_of(reference, work_dir)


def main() -> None:
    """Entry point of the `moslim` command."""
    # What libraries tell each other about coming versions is not for the person at the terminal.
    warnings.filterwarnings("ignore", category=FutureWarning)
    terminal.speak_utf8()
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
