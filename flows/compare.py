"""Flow `compare`: one setting at several values, each under the same seeds -> one table with intervals, as JSON and as a page."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from prefect import flow
from pydantic import BaseModel

from flows.align import STAGES, Pipeline, StageName, run_pipeline
from flows.profile import override
from moslim_core.errors import UserError
from moslim_core.evaluation.comparison import Comparison, Measured
from moslim_core.settings import Settings
from tasks import hosted
from tasks.ledger import Ledger
from tasks.references import digest_of
from tasks.stage import ledger_of

# What is compared, by the last stage that was run: metric names that end in one of these.
FIGURES = {
    "train_reward": ("/accuracy", "/macro_f1", "/kappa", "/mae", "/auc", "/ece"),
    "evaluate": ("/spearman", "/mae", "/span", "/hypervolume", "/truncated"),
}
OF = {"train_reward": "head/", "evaluate": "after/"}
# The starting model under the same instructions and no RL: the row that every policy is measured against.
PROMPT_ONLY, BEFORE = "prompt only", "before/"
PAGE, RESULT = "compare.html", "compare.json"


class Compared(BaseModel):
    """Where a comparison's page and JSON are, and what stands there."""

    run_id: str
    folder: Path
    comparison: Comparison


def parse_over(over: str) -> tuple[str, list[str]]:
    """(key, values) of 'KEY=a,b,c'. Raises UserError on fewer than two different values."""
    key, _, text = over.partition("=")
    values = [value.strip() for value in text.split(",") if value.strip()]
    if len(values) < 2 or len(set(values)) < len(values):
        raise UserError(f"--over {over}: write KEY=a,b with at least two different values, e.g. reward.head=classification,ordinal")
    return key.strip(), values


def parse_seeds(text: str) -> list[int]:
    """Seeds of '0,1,2'. Raises UserError."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() for part in parts) or len(set(parts)) < len(parts):
        raise UserError(f"--seeds {text}: write different whole numbers, e.g. 0,1,2")
    return [int(part) for part in parts]


def last_stage(key: str, until: str | None) -> StageName:
    """The stage after which runs are compared. Raises UserError if it has no figures."""
    chosen = until or ("train_reward" if key.split(".")[0] in ("data", "reward", "annotation") else "evaluate")
    if chosen not in FIGURES:
        raise UserError(f"--until {chosen}: runs are compared after {' or '.join(FIGURES)}.")
    return cast(StageName, chosen)


@flow(name="compare")
def compare(settings: Settings, over: str, seeds: list[int], until: StageName = "train_reward") -> Compared:
    """Run every value of `over` (KEY=a,b,c) with every seed up to a stage, and compare their figures."""
    from moslim_core.evaluation import comparison as comparing

    settings = hosted.prepared(settings)
    key, values = parse_over(over)
    # All variants are checked before the first is run.
    variants = {(value, seed): override(settings, [f"{key}={value}", f"seed={seed}"]) for seed in seeds for value in values}
    ledger = ledger_of(settings.work_dir)
    ledger.reconcile()
    fingerprint = digest_of({"settings": settings.content(), "over": over, "seeds": seeds, "until": until})
    run_id = ledger.open_comparison(fingerprint, f"compare {over}", {"over": over, "seeds": seeds, "until": until, **settings.content()})
    with closing_on_error(ledger, run_id):
        # Seed by seed, so that a comparison that is cut short has whole seeds.
        pipelines = {which: run_pipeline(variant, until, run_id) for which, variant in variants.items()}
    runs = [_measured(value, seed, until, pipelines[value, seed], OF[until], ledger) for value in values for seed in seeds]
    if until == "evaluate":
        runs = [_measured(PROMPT_ONLY, seed, until, pipelines[values[0], seed], BEFORE, ledger) for seed in seeds] + runs
    return publish(comparing.compare(key, runs), settings.work_dir / "comparisons" / f"{key}-{fingerprint[:8]}", run_id, ledger)


@contextlib.contextmanager
def closing_on_error(ledger: Ledger, run_id: str) -> Iterator[None]:
    """A failure or a cancellation inside is on record at once."""
    try:
        yield
    except BaseException as error:
        ledger.close(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise


def publish(result: Comparison, folder: Path, run_id: str, ledger: Ledger) -> Compared:
    """JSON and page in `folder` and with the comparison's run, its means as that run's metrics; the run is finished then."""
    from moslim_core.report.comparison import render_comparison

    folder.mkdir(parents=True, exist_ok=True)
    for name, text in ((RESULT, result.model_dump_json(indent=1)), (PAGE, render_comparison(result))):
        partial = folder / f".{name}"
        partial.write_text(text, encoding="utf-8")
        partial.rename(folder / name)
        ledger.client.log_artifact(run_id, str(folder / name))
    means = {f"{v}/{name}": f.mean.value for name, of in result.figures.items() for v, f in of.items() if f.mean.value is not None}
    ledger.log_points(run_id, [(0, means)])
    ledger.close(run_id, "FINISHED")
    return Compared(run_id=run_id, folder=folder, comparison=result)


def _measured(variant: str, seed: int, until: StageName, pipeline: Pipeline, of: str, ledger: Ledger) -> Measured:
    outcomes = pipeline.outcomes
    figures = {
        name.removeprefix(of): figure
        for name, figure in outcomes[until].metrics.items()
        if name.startswith(of) and name.endswith(FIGURES[until]) and name.count("/") <= 2
    }
    trained = () if of == BEFORE else STAGES[1 : STAGES.index(until) + 1]
    work = sum(outcomes[stage].seconds for stage in trained)
    over_prompts = {}
    if until == "evaluate":
        from moslim_core.evaluation.suite import read_control

        found = read_control(ledger.download(outcomes[until].ref.uri), of.removesuffix("/"))
        over_prompts = {f"{name}{end}": getattr(c, end[1:]) for name, c in found.preferences.items() for end in FIGURES[until][:3]}
    return Measured(variant=variant, seed=seed, figures=figures, seconds=work, over_prompts=over_prompts)
