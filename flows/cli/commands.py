"""The command line: `moslim`. Imports stay light until a command needs more; errors a user can mend end with code 2."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from flows import profile as profiles
from flows.cli import first_steps, policy_commands, settings_help
from flows.cli.options import JsonOption, ProfileOption, SetOption, WorkDirOption, of_runs, opened, settings_of, user_errors
from flows.cli.settings_help import common_settings
from moslim_core.baselines import methods
from moslim_core.errors import UserError
from moslim_core.settings_section import changed
from tasks.surroundings import environment, network, terminal

if TYPE_CHECKING:
    from flows.align import StageName

_PORT: dict[str, Any] = {"min": 1, "max": 65535, "metavar": "PORT", "show_default": False}
MlflowPortOption = Annotated[
    int | None, typer.Option(help="where MLflow listens, now and from now on; default: where it did before, or a free port", **_PORT)
]
PrefectPortOption = Annotated[int | None, typer.Option(help="the same for Prefect", **_PORT)]

app = typer.Typer(
    name="moslim",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Look at rated rows; the data set that comes with the package.", no_args_is_help=True)
reward_app = typer.Typer(help="Train the multi-head reward model (with what it needs).", invoke_without_command=True)
app.add_typer(data_app, name="data")
app.add_typer(reward_app, name="reward")
first_steps.add_to(app, data_app)
settings_help.add_to(app)


def _run(profile: str, overrides: list[str] | None, until: StageName, as_json: bool = False) -> None:
    from flows.cli.console import run_with_display

    run_with_display(settings_of(profile, overrides), until, profile, overrides or [], as_json)


def _version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        typer.echo(f"moslim {version('moslim')}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="say which version this is")] = False,
) -> None:
    """One chat policy that follows many preferences at many intensities, stated in the prompt."""


class _Listing(TyperCommand):
    """A command whose --help ends with what can be named, plug-ins' things included: found out when it is asked for."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        self.epilog = _systems() if self.name == "compare" else common_settings()
        super().format_epilog(ctx, formatter)


def _systems() -> str:
    """What --baselines takes, for --help."""
    return "\n".join(["\b", "Systems for --baselines:", *(f"  {name}  {about}" for name, about in methods().items())])


@app.command(cls=_Listing)
@user_errors
def run(profile: ProfileOption = "demo", set_: SetOption = None, json: JsonOption = False) -> None:
    """The whole path: label, train the reward model, train the policy, evaluate, report."""
    _run(profile, set_, "report", json)


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
    from flows.cli.scoring import score_pairs

    _, folder = opened(reward_model, work_dir)
    score_pairs(folder, input, preference, output)


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
        str | None, typer.Option(metavar="A,B", help="what to evaluate, see evaluation.suite in moslim run --help; default: the profile's")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="folder with the benchmarks' files")] = None,
) -> None:
    """Measure control and benchmarks of a policy beside the starting model (and run what comes before it)."""
    given = {"policy": policy, "suite": suite, "data_dir": data_dir}
    _run(profile, [*(set_ or []), *(f"evaluation.{key}={value}" for key, value in given.items() if value is not None)], "evaluate")


@app.command(cls=_Listing)
@user_errors
def compare(
    over: Annotated[
        str | None, typer.Option(metavar="KEY=A,B,C", help="one setting and its values, e.g. reward.head=classification,ordinal")
    ] = None,
    baselines: Annotated[
        str | None, typer.Option(metavar="A,B", help="this project's method beside other systems: all, or some of those listed below")
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
    from flows.cli import console

    if (over is None) == (baselines is None):
        raise UserError("give either --over KEY=A,B, to compare values of a setting, or --baselines all, to compare systems.")
    if over is not None:
        if search is not None:
            raise UserError(f"--search {search}: learning rates are searched for systems; --search goes with --baselines.")
        console.compare_with_display(settings_of(profile, set_), over, seeds, until)
    elif until is not None:
        raise UserError(f"--until {until}: systems are always compared to the end; --until goes with --over.")
    else:
        console.compare_systems_with_display(settings_of(profile, set_), str(baselines), seeds, search)


policy_commands.add_to(app)


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
    from flows.cli.scoring import score_rows

    _, folder = opened(reward_model, work_dir)
    score_rows(folder, input, output, prefer)


@app.command()
@user_errors
def ui(work_dir: WorkDirOption = Path(".moslim"), mlflow_port: MlflowPortOption = None, prefect_port: PrefectPortOption = None) -> None:
    """Serve MLflow and Prefect for this work directory on loopback until Ctrl-C."""
    from flows.service.ui import serve

    serve(environment.prepare(work_dir), mlflow_port, prefect_port)


@app.command()
@user_errors
def up(
    profile: ProfileOption = "demo",
    set_: SetOption = None,
    mlflow_port: MlflowPortOption = None,
    prefect_port: PrefectPortOption = None,
) -> None:
    """Start MLflow, Prefect and a worker per pool on loopback, with a deployment per flow; the profile fills in the forms."""
    from flows.service.up import bring_up

    bring_up(settings_of(profile, set_), profile, mlflow_port, prefect_port)


@app.command()
@user_errors
def down(work_dir: WorkDirOption = Path(".moslim")) -> None:
    """Stop all that `moslim up` started."""
    from flows.service.up import bring_down

    bring_down(of_runs(work_dir))


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
    from flows.cli.clean import clean_up

    clean_up(environment.existing(work_dir), older_than, dry_run)


@app.command()
@app.command("check", help="The same as doctor: with --profile, in seconds, what its run would stumble on later.")
@user_errors
def doctor(
    work_dir: Annotated[Path | None, typer.Option(help="where runs are kept; default: the profile's, or .moslim")] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", help="also check all that this profile's run needs: models, rows, memory, disk")
    ] = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """What is installed, what is missing and how to get it. Ends with code 1 if something needed is missing."""
    from flows.cli.doctor import check

    network.reach_loopback()
    if profile is None and set_:
        raise UserError(f"--set {set_[0]}: settings belong to a profile; give --profile too, e.g. --profile demo.")
    settings = profiles.load(profile, set_ or []) if profile else None
    if settings is not None and work_dir is not None:
        settings = changed(settings, work_dir=work_dir)
    raise typer.Exit(0 if check(work_dir or Path(".moslim"), settings, json) else 1)


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
    from flows.cli.build_starter import build

    build(settings_of(profile, set_), output, raw, limit)


def main() -> None:
    """Entry point of the `moslim` command."""
    # What libraries tell each other about coming versions is not for the person at the terminal.
    warnings.filterwarnings("ignore", category=FutureWarning)
    terminal.speak_utf8()
    try:
        app()
    except UserError as error:  # of --help, where a plug-in can't be imported
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
