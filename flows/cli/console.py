"""`moslim run` in a terminal: servers, progress bars with an ETA, and a last table that says what moved."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from flows.cli.plan import minutes
from flows.cli.printed_commands import command, with_settings
from flows.cli.waiting import Waiting
from flows.profile import override
from flows.service.server import prefect_server
from moslim_core.settings import Settings
from tasks.execution.launcher import guarded, memory_of
from tasks.execution.questions import ask
from tasks.ledger.overview import run_name
from tasks.surroundings import environment, progress

if TYPE_CHECKING:
    from flows.align import StageName
    from flows.compare import PublishedComparison
    from moslim_core.evaluation.comparison import Comparison

MEMORY_SECONDS = 0.5
# Longest wait for an estimate that comes after the end.
FORETELL_SECONDS = 20.0

# What a terminal has room for of compared systems; the page has the rest.
SYSTEM_FIGURES = {"front/hypervolume": "hypervolume", "front/inner_product": "inner product"}
SYSTEM_COSTS = ("policies trained", "training answers")

# The report's verdicts, as a terminal's column has room for them.
VERDICTS = {
    "better": "follows; better than the prompt alone",
    "follows": "follows; a gain is not shown",
    "worse": "worse than the prompt alone",
    "not controlled": "does not follow",
    "not measured": "could not be measured",
    "guard": "held, not steered",
}


class PeakMemory:
    """The most that this process and all it started held at once, sampled twice a second."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(MEMORY_SECONDS):
            self.bytes = max(self.bytes, memory_of(os.getpid()))


class Stages:
    """Tells a person of the stages as they go on."""

    def __init__(self, waiting: Waiting) -> None:
        self.waiting = waiting

    def progress(self, stage: str, phase: str, done: int, total: int) -> None:
        self.waiting.update(stage, phase, done, total)

    def announce(self, stage: str, state: str) -> None:
        self.waiting.close()
        self.waiting.starting = f"{stage}: starting" if state in ("running", "resuming") else "going on"
        if state in ("reused", "resuming", "failed") or not self.waiting.console.is_terminal:
            self.waiting.say(f"{stage}: {state}")

    def note(self, text: str) -> None:
        self.waiting.say(text)


@contextlib.contextmanager
def _head_start(settings: Settings) -> Iterator[None]:
    """While the Prefect server starts, make what a new work directory lacks: the ledger's tables, a packaged model's folder."""
    from tasks.ledger.ledger import given_store
    from tasks.ledger.of_work_dir import ledger_of

    # Before a server is started for nothing.
    given_store()
    cache = environment.model_cache(settings.work_dir)
    code = "import sys; from pathlib import Path; from moslim_core.models import resolve; resolve(sys.argv[1], Path(sys.argv[2]), False)"
    # What goes wrong here is told by the stage that needs it; that stage also waits if it comes too early.
    subprocess.Popen(
        guarded([sys.executable, "-c", code, settings.model.base, str(cache)]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(ledger_of, settings.work_dir)
        yield
    opening.result()


def run_foretold(settings: Settings) -> str:
    """How long a whole run will take, and what memory."""
    planned = ask("plan", settings)
    return f"about {minutes(planned['seconds'])} and {planned['memory_gb']:.1f} GB of memory (more: moslim plan)"


def comparison_foretold(settings: Settings, names: Sequence[str], seeds: Sequence[int], search: Sequence[float]) -> str:
    """What of a comparison is there, and how long the rest will take."""
    planned = ask("plan_comparison", settings, names, seeds=seeds, search=search)
    return f"{planned['sentence']} (each system: moslim plan --baselines)"


def _foretell(told: Callable[[], str], waiting: Waiting) -> None:
    """Say how long it will take, once that is known; who can't tell is silent, as the stages will tell what is wrong."""
    with contextlib.suppress(Exception):
        waiting.say(told())


@contextlib.contextmanager
def display(settings: Settings, foretold: Callable[[], str] | None = None) -> Iterator[PeakMemory]:
    """A Prefect server and bars for a flow that runs inside. A stage that dies ends the command with code 1, Ctrl-C with 130.

    `foretold` says how long it will take.
    """
    # The bars speak to the person here; Prefect's log goes to its server.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    with contextlib.ExitStack() as stack:
        waiting = stack.enter_context(Waiting(Console(stderr=True)))
        memory = stack.enter_context(PeakMemory())
        try:
            with _head_start(settings):
                stack.enter_context(prefect_server(settings.work_dir))
                if foretold is not None:
                    # The server's address is in the environment now, which the stages' workers share with the process that answers.
                    thread = threading.Thread(target=_foretell, args=(foretold, waiting), daemon=True)
                    thread.start()
                    stack.callback(thread.join, FORETELL_SECONDS)
            progress.listener = Stages(waiting)
            yield memory
        except RuntimeError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            waiting.close()
            typer.echo("stopped; the same command resumes", err=True)
            raise typer.Exit(130) from None
        finally:
            progress.listener = None


def run_with_display(settings: Settings, until: StageName, profile: str, overrides: Sequence[str] = (), as_json: bool = False) -> None:
    """Run the flow with a Prefect server and bars, and say at the end what there is. Raises UserError from any stage.

    `profile` and `overrides` are what the settings were loaded from: they name the run. `as_json`: of a whole run, print the folder of
    what there is, and its summary.json.
    """
    started = time.monotonic()
    what = {"report": "label, train the reward model and the policy, evaluate, report", "label": "label"}.get(until, f"all up to {until}")
    typer.echo(f"profile {profile}: {what}; in {settings.work_dir} (Ctrl-C stops, the same command resumes)", err=True)
    with display(settings, partial(run_foretold, settings) if until == "report" else None) as memory:
        from flows.align import align

        pipeline = align(settings, until, run_name(settings, profile, overrides, until))
    wall = time.monotonic() - started
    if until == "report":
        from tasks.display.latest_folder import write_summary

        figures = {"profile": profile, "wall_seconds": round(wall, 1), "peak_memory_gb": round(memory.bytes / 1e9, 2)}
        write_summary(settings.work_dir / "latest", {"run_id": pipeline.run_id, **figures})
        if as_json:
            latest = settings.work_dir / "latest"
            summary = json.loads((latest / "summary.json").read_text(encoding="utf-8"))
            typer.echo(json.dumps({"folder": str(latest), **summary}, indent=1, ensure_ascii=False))
        else:
            _print_summary(Console(), settings, pipeline, wall, memory.bytes)
    elif until == "evaluate":
        _print_evaluation(Console(), settings, pipeline)
    else:
        following = with_settings("run", profile=profile, overrides=overrides)
        Console().print(f"{until}: {pipeline.outcomes[until].ref.uri}\nnext: {following}", highlight=False, soft_wrap=True)


def _print_evaluation(console: Console, settings: Settings, pipeline: Any) -> None:
    from moslim_core.evaluation.suite import read_benchmarks, read_control
    from moslim_core.report import Both
    from moslim_core.report.benchmarks import not_run
    from tasks.ledger.of_work_dir import ledger_of
    from tasks.stages.evaluate import SYSTEMS

    outcome = pipeline.outcomes["evaluate"]
    folder = ledger_of(settings.work_dir).download(outcome.ref.uri)
    table = Table(title="Evaluation (95 % intervals)", title_justify="left")
    for heading in ("figure", *SYSTEMS.values(), "judged", "missing"):
        table.add_column(heading)
    if "controllability" in settings.evaluation.suite:
        before, after = (read_control(folder, system) for system in SYSTEMS)
        for name, control in after.preferences.items():
            start = before.preferences[name]
            figure = "mae" if control.guard else "spearman"
            cells = [str(getattr(of, figure)) for of in (start, control)]
            table.add_row(f"{name}: {figure}", *cells, str(control.answers), str(control.missing))
    runs = [read_benchmarks(folder, system) for system in SYSTEMS]
    for name, run in runs[1].items():
        for measure, scores in run.result.measures.items():
            cells = [str(of[name].result.measures[measure].overall.mean) for of in runs]
            table.add_row(f"{name}: {measure}", *cells, str(scores.overall.judged), str(scores.overall.missing))
    console.print(table)
    for name, run in runs[1].items():
        for reason, measures in not_run(Both(before=runs[0][name], after=run)).items():
            console.print(f"{name}: {', '.join(measures)} not run ({reason})", highlight=False, soft_wrap=True)
        for reason, count in run.dropped.items():
            console.print(f"{name}: {count} items left out ({reason})", highlight=False)
    console.print(f"run      {outcome.ref.run_id}\nfiles    {folder}", highlight=False, soft_wrap=True)


def _print_summary(console: Console, settings: Settings, pipeline: Any, wall: float, peak: int) -> None:
    from moslim_core.evaluation.suite import read_control
    from moslim_core.report.next_steps import chats
    from tasks.ledger.of_work_dir import ledger_of
    from tasks.stages.evaluate import SYSTEMS

    evaluation = ledger_of(settings.work_dir).download(pipeline.outcomes["evaluate"].ref.uri)
    before, after = (read_control(evaluation, system) for system in SYSTEMS)
    latest = Path(settings.work_dir) / "latest"
    summary = json.loads((latest / "summary.json").read_text(encoding="utf-8"))
    verdicts = {finding["preference"]: finding["verdict"] for finding in summary["findings"]}
    table = Table(title="Requested against obtained levels (Spearman, 95 % interval)", title_justify="left")
    for heading in ("preference", "starting model", "policy", "mean error", "what it says"):
        table.add_column(heading)
    for name, control in after.preferences.items():
        start = before.preferences[name]
        table.add_row(
            name,
            "guard" if control.guard else str(start.spearman),
            "guard" if control.guard else str(control.spearman),
            f"{start.mae.value:.2f} -> {control.mae.value:.2f}" if control.mae.value is not None and start.mae.value is not None else "n/a",
            VERDICTS[verdicts[name]],
        )
    console.print(table)
    console.print(summary["headline"], highlight=False)
    where = ["--policy", str(latest / "policy"), "--work-dir", str(settings.work_dir)]
    talks = [command(*words) for words in chats(settings.preferences[summary["best"]], *where)]
    cached = [name for name, outcome in pipeline.outcomes.items() if outcome.cached]
    console.print(
        f"{wall:.0f} s, {peak / 1e9:.1f} GB at most{', reused: ' + ', '.join(cached) if cached else ''}\n"
        f"report   {latest / 'report.html'}\n"
        f"summary  {latest / 'summary.json'}\n"
        f"runs     {command('ui', '--work-dir', str(settings.work_dir))}\n"
        f"next     " + "\n         ".join(talks),
        highlight=False,
        soft_wrap=True,
    )


def compare_with_display(settings: Settings, over: str, seeds: str, until: str | None) -> None:
    """Run the flow `compare` with bars, print its table, and say where the page is. Raises UserError on a bad setting."""
    from flows.cli.compare_arguments import last_stage, parse_over, parse_seeds

    key, values = parse_over(over)
    for value in values:
        override(settings, [f"{key}={value}"])
    numbers, stage = parse_seeds(seeds), last_stage(key, until)
    with display(settings):
        from flows.compare import compare

        compared = compare(settings, over, numbers, stage)
    from moslim_core.evaluation.figure_kinds import label_of

    comparison = compared.comparison
    table = Table(title=_title(comparison), title_justify="left")
    table.add_column("figure", no_wrap=True)
    for heading in comparison.variants:
        table.add_column(heading)
    for name, of in comparison.figures.items():
        table.add_row(label_of(name), *(str(of[variant].mean) for variant in comparison.variants))
    table.add_row("seconds of work", *(f"{comparison.seconds[variant]:.0f}" for variant in comparison.variants))
    _print_comparison(compared, table)


def compare_systems_with_display(settings: Settings, baselines: str, seeds: str, search: str | None) -> None:
    """Run the flow `compare_systems` with bars, print its table, and say where the page is. Raises UserError on a bad name."""
    from flows.cli.compare_arguments import parse_baselines, parse_search, parse_seeds

    names, numbers, factors = parse_baselines(baselines), parse_seeds(seeds), parse_search(search) if search else []
    with display(settings, partial(comparison_foretold, settings, names, numbers, factors)):
        from flows.compare_systems import compare_systems

        compared = compare_systems(settings, names, numbers, factors)
    from moslim_core.evaluation.pooling import CROSS_TALK

    comparison = compared.comparison

    def mean(name: str, variant: str) -> str:
        figure = comparison.figures.get(name, {}).get(variant)
        return "n/a" if figure is None or figure.mean.value is None else f"{figure.mean.value:.2f}"

    # One row per system: there are too many of them for columns.
    table = Table(title=_title(comparison), title_justify="left")
    table.add_column("system", no_wrap=True)
    for heading in (*SYSTEM_FIGURES.values(), "Spearman", "cross-talk", *SYSTEM_COSTS, "seconds"):
        table.add_column(heading)
    followed = [name for name in comparison.figures if name.endswith("/spearman")]
    for variant in comparison.variants:
        figures = [str(comparison.figures[name][variant].mean) if name in comparison.figures else "n/a" for name in SYSTEM_FIGURES]
        costs = [f"{comparison.costs[name][variant]:.0f}" for name in SYSTEM_COSTS]
        table.add_row(
            variant,
            *figures,
            ", ".join(mean(name, variant) for name in followed),
            mean(CROSS_TALK, variant),
            *costs,
            f"{comparison.seconds[variant]:.0f}",
        )
    _print_comparison(compared, table)


def _title(comparison: Comparison) -> str:
    return f"{comparison.key}, seeds {', '.join(map(str, comparison.seeds))} (mean, 95 % interval over {comparison.intervals})"


def _print_comparison(compared: PublishedComparison, table: Table) -> None:
    from flows.compare import PAGE, RESULT
    from moslim_core.report.leaders import leaders, verdict

    console = Console()
    console.print(table)
    found = leaders(compared.comparison)
    for sentence in filter(None, [verdict(found, compared.comparison.variants), *(leader.sentence for leader in found)]):
        console.print(sentence, highlight=False, soft_wrap=True)
    console.print(f"page     {compared.folder / PAGE}\nfigures  {compared.folder / RESULT}", highlight=False, soft_wrap=True)
