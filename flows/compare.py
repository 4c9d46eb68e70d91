"""Flow `compare`: one setting at several values, each under the same seeds -> one table with intervals, as JSON and as a page."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from prefect import flow
from pydantic import BaseModel

from flows.align import STAGES, Pipeline, StageName, run_pipeline
from flows.cli.compare_arguments import FIGURES, LastStage, parse_over
from flows.failed_state import failed_on_user_error
from flows.form import Form, filled_in
from flows.profile import override
from moslim_core.evaluation.comparison import Comparison, Measured, SamplePrompt
from moslim_core.settings import Settings
from moslim_core.statistics.bootstrap import Interval
from tasks.display.prefect_page import entitle, show_comparison
from tasks.execution.side_by_side import all_of
from tasks.ledger.ledger import Ledger
from tasks.ledger.mlflow_pages import describe
from tasks.ledger.of_work_dir import ledger_of
from tasks.ledger.references import digest_of

# A value of the setting that differs, and a seed.
Variant = tuple[str, int]
# By variant: seeds, and intervals over the prompts that these share.
Pooled = dict[str, tuple[list[int], dict[str, Interval]]]
OF = {"train_reward": "head/", "evaluate": "after/"}
# The starting model under the same instructions and no RL: the row that every policy is measured against.
PROMPT_ONLY, BEFORE = "prompt only", "before/"
ABOUT = {PROMPT_ONLY: "the starting model under the same instructions, and no training"}
PAGE, RESULT = "compare.html", "compare.json"


class PublishedComparison(BaseModel):
    """Where a comparison's page and JSON are, and what stands there."""

    run_id: str
    folder: Path
    comparison: Comparison


@flow(name="compare")
@failed_on_user_error
def compare(settings: Form, over: str, seeds: list[int], until: LastStage = "train_reward") -> PublishedComparison:
    """Run every value of a setting with every seed up to a stage, and compare their figures.

    Args:
        settings: what all runs share: a profile, yours or packaged, with changes, or every setting by itself
        over: the setting that differs, and its values: KEY=a,b,c
        seeds: each value runs with each of them; intervals need three
        until: the last stage; train_reward compares reward models, evaluate compares policies
    """
    settings = filled_in(settings)
    key, values = parse_over(over)
    entitle(f"{over}, seeds {', '.join(map(str, seeds))}", [key, until])
    # All variants are checked before the first is run.
    variants = {(value, seed): override(settings, [f"{key}={value}", f"seed={seed}"]) for seed in seeds for value in values}
    ledger = ledger_of(settings.work_dir)
    ledger.reconcile()
    fingerprint = digest_of({"settings": settings.content(), "over": over, "seeds": seeds, "until": until})
    run_id = ledger.open_comparison(fingerprint, f"compare {over}", {"over": over, "seeds": seeds, "until": until, **settings.content()})
    folder = settings.work_dir / "comparisons" / folder_name(key, fingerprint)
    in_order = [(value, seed) for value in values for seed in seeds]
    pipelines: dict[Variant, Pipeline] = {}
    pooled: Pooled = {}

    def run(value: str, seed: int) -> tuple[Variant, Pipeline]:
        return (value, seed), run_pipeline(variants[value, seed], until, f"{key}={value}, seed {seed}", run_id)

    # Seed by seed, so that a comparison that is cut short has whole seeds.
    calls = [partial(run, *variant) for variant in variants]
    with closing_on_error(ledger, run_id), closing(all_of(calls, settings.placement)) as ended:
        for variant, pipeline in ended:
            pipelines[variant] = pipeline
            result = _compared(key, {of: pipelines[of] for of in in_order if of in pipelines}, variants, until, ledger, pooled)
            show(result, folder)
    return publish(result, folder, run_id, ledger)


def _compared(
    key: str,
    pipelines: Mapping[Variant, Pipeline],
    variants: Mapping[Variant, Settings],
    until: LastStage,
    ledger: Ledger,
    pooled: Pooled,
) -> Comparison:
    """Of those pipelines of the variants that have ended. `pooled`: what was resampled before; what is new comes to it."""
    from moslim_core.evaluation import comparison as comparing
    from moslim_core.evaluation import pooling
    from moslim_core.evaluation.suite import read_answers

    seeds_of = {value: [seed for other, seed in pipelines if other == value] for value, _ in pipelines}
    systems = [(value, OF[until], value) for value in seeds_of]
    if until == "evaluate":
        systems = [(PROMPT_ONLY, BEFORE, systems[0][2]), *systems]
    runs = []
    for name, of, value in systems:
        runs += [_measured(name, seed, until, pipelines[value, seed], of, ledger) for seed in seeds_of[value]]
        if until == "evaluate" and pooled.get(name, ([], {}))[0] != seeds_of[value]:
            folders = [ledger.download(pipelines[value, seed].outcomes[until].ref.uri) for seed in seeds_of[value]]
            answers = [read_answers(folder, of.removesuffix("/")) for folder in folders]
            settings = variants[value, seeds_of[value][0]]
            pooled[name] = seeds_of[value], pooling.control(answers, settings.preferences, settings.evaluation.bootstrap)
    missing = f"Not finished: {len(pipelines)} of {len(variants)} runs are here." if len(pipelines) < len(variants) else ""
    sample = _sample(systems, pipelines, variants, ledger) if until == "evaluate" else None
    return comparing.compare(
        key, runs, pooled={name: intervals for name, (_, intervals) in pooled.items()}, missing=missing, about=ABOUT, sample=sample
    )


def _sample(
    systems: Sequence[tuple[str, str, str]], pipelines: Mapping[Variant, Pipeline], variants: Mapping[Variant, Settings], ledger: Ledger
) -> SamplePrompt | None:
    """One prompt under the seed that most values have by now. `systems`: (name, `OF` or BEFORE, value)."""
    from moslim_core.data.rows import load_prompts, plain_text
    from moslim_core.evaluation.suite import read_answers
    from moslim_core.report import side_by_side

    seed = Counter(seed for _, seed in pipelines).most_common(1)[0][0]
    folders = {value: ledger.download(of.outcomes["evaluate"].ref.uri) for (value, under), of in pipelines.items() if under == seed}
    prompts = {value: [plain_text(prompt) for prompt in load_prompts(folder / "prompts.jsonl")] for value, folder in folders.items()}
    first = next(iter(folders))
    # A setting may change which prompts are evaluated.
    alike = [system for system in systems if prompts.get(system[2]) == prompts[first]]
    answers = {name: read_answers(folders[value], of.removesuffix("/")) for name, of, value in alike}
    return side_by_side(answers, prompts[first], variants[first, seed].preferences, seed)


def folder_name(key: str, fingerprint: str) -> str:
    """One name below `comparisons`, whatever a key that ends in a name of the user's own holds."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', key)}-{fingerprint[:8]}"


@contextlib.contextmanager
def closing_on_error(ledger: Ledger, run_id: str) -> Iterator[None]:
    """A failure or a cancellation inside is on record at once."""
    try:
        yield
    except BaseException as error:
        ledger.close(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise


def show(result: Comparison, folder: Path) -> None:
    """JSON and page in `folder`, in place of what was there: of what is compared by now, or of all."""
    from moslim_core.report.comparison import render_comparison

    folder.mkdir(parents=True, exist_ok=True)
    for name, text in ((RESULT, result.model_dump_json(indent=1)), (PAGE, render_comparison(result))):
        partial = folder / f".{name}"
        partial.write_text(text, encoding="utf-8")
        partial.rename(folder / name)


def publish(result: Comparison, folder: Path, run_id: str, ledger: Ledger) -> PublishedComparison:
    """What `show` has put in `folder` with the comparison's run, its means as that run's metrics, its words as that run's description and
    on Prefect's page; the run is finished then."""
    from moslim_core.report.leaders import told

    for name in (RESULT, PAGE):
        ledger.client.log_artifact(run_id, str(folder / name))
    means = {f"{v}/{name}": f.mean.value for name, of in result.figures.items() for v, f in of.items() if f.mean.value is not None}
    ledger.log_points(run_id, [(0, means)])
    words = told(result)
    describe(ledger, run_id, words)
    show_comparison(words, folder / PAGE, run_id, ledger)
    ledger.close(run_id, "FINISHED")
    return PublishedComparison(run_id=run_id, folder=folder, comparison=result)


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
        from moslim_core.evaluation.pooling import CROSS_TALK
        from moslim_core.evaluation.suite import read_control

        control = read_control(ledger.download(outcomes[until].ref.uri), of.removesuffix("/"))
        figures |= {CROSS_TALK: control.left_open} if control.left_open is not None else {}
        figures |= {f"{n}/spearman": of.followed.value for n, of in control.preferences.items() if of.followed.value is not None}
        over_prompts = {f"{name}{end}": getattr(c, end[1:]) for name, c in control.preferences.items() for end in FIGURES[until][:3]}
    return Measured(variant=variant, seed=seed, figures=figures, seconds=work, over_prompts=over_prompts)
