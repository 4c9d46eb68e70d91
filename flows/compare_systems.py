"""Flow `compare_systems`: this project's method beside others, with the same data, models, judge, prompts, seeds and rollout budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from prefect import flow

from flows.align import run_pipeline
from flows.cli.compare_arguments import parse_baselines, parse_search
from flows.compare import PAGE, PublishedComparison, closing_on_error, publish, show
from flows.failed_state import failed_on_user_error
from flows.form import Form, filled_in
from flows.profile import override
from moslim_core.baselines import START, methods, ours
from moslim_core.evaluation.comparison import Measured, SamplePrompt
from moslim_core.settings import Settings
from moslim_core.settings_section import changed
from moslim_core.statistics.bootstrap import Interval
from tasks.display.prefect_page import entitle
from tasks.execution.side_by_side import all_of
from tasks.ledger.ledger import Ledger
from tasks.ledger.of_work_dir import ledger_of
from tasks.ledger.references import ArtifactRef, Outcome, digest_of
from tasks.stage_list import COMPARED
from tasks.stages.compare_systems import comparable, compared, stage_of
from tasks.stages.train_reward import train_judge
from tasks.surroundings import progress

if TYPE_CHECKING:
    from moslim_core.baselines.measure import Answers, Row

KEY = "compared systems"
# What a row's cost is called on the page.
COSTS = {
    "reward_models": "reward models trained",
    "policies": "policies trained",
    "rollouts": "training answers",
    "resident": "models and adapters to serve all points",
    "point_rollouts": "training answers for one more point",
    "drawn": "answers drawn for one given",
}
NOTES = (
    "Every row is measured at the same operating points, on the same prompts, by the same judge.",
    "Rollouts: a method has the answers that policy.steps draw, in total; one that trains several policies shares its steps among them.",
    "No training ends by the clock, and no combination of levels is held out: policy.max_minutes and held_out_fraction are not used here.",
    "A level is asked of a method that takes weights at the operating point whose answers to training prompts are nearest to it, "
    "as the reward model sees them; of several levels at once, at the point that is nearest to all of them.",
    "Way given: how far the user's own words that contradict a request move answers, as a share of a preference's range.",
    "Questions with known answers are asked with no request; of a method that takes weights, at the weights that prefer nothing.",
    "Work leaves out the labels and the reward model, which all rows share; rows of one training have that training's work each.",
)

GUARDS = "Of a guard, which has one level to ask for, the mean error in levels stands in place of Spearman; it is no axis of the front."


@flow(name="compare_systems")
@failed_on_user_error
def compare_systems(settings: Form, baselines: list[str], seeds: list[int], search: Sequence[float] = ()) -> PublishedComparison:
    """Run every method under every seed, one stage each, and compare their fronts and costs.

    Args:
        settings: what all runs share: a profile, yours or packaged, with changes, or every setting by itself
        baselines: names of systems, or all; the starting model is always among them
        seeds: each system runs with each of them; intervals need three
        search: factors of the learning rates, of which each system keeps the one that suits it best with the first seed; none: as they are
    """
    from moslim_core.evaluation import comparison as comparing

    baselines = parse_baselines(",".join(baselines))
    search = parse_search(",".join(map(str, search))) if search else []
    entitle(f"{len(baselines)} systems, seeds {', '.join(map(str, seeds))}", baselines)
    settings = comparable(filled_in(settings))
    own = ours()
    for name in own.keys() & set(baselines):
        _optimised_by(settings, own[name])
    if settings.placement == "inline":
        # What a training will lack here is said before others have taken their time.
        for name in baselines:
            stage_of(name).launch(settings)
    ledger = ledger_of(settings.work_dir)
    ledger.reconcile()
    arguments = {"baselines": baselines, "seeds": seeds, "search": search}
    fingerprint = digest_of({"settings": settings.content(), **arguments})
    run_id = ledger.open_comparison(fingerprint, f"compare {', '.join(baselines)}", {**arguments, **settings.content()})
    folder = settings.work_dir / "comparisons" / f"systems-{fingerprint[:8]}"
    notes = [*NOTES, *([GUARDS] if any(p.is_guard for p in settings.preferences.preferences) else [])]
    ran: list[Ran] = []
    with closing_on_error(ledger, run_id):
        factor_of, spent = dict.fromkeys(baselines, 1.0), dict.fromkeys(baselines if search else (), 0.0)
        if search:
            for name, factor, seconds in _searched(changed(settings, seed=seeds[0]), baselines, search, run_id):
                factor_of[name], spent[name] = factor, seconds
        notes.append(_search_said(factor_of, search, seeds[0]))
        total, pooled = len(seeds) * len(baselines), dict[str, dict[str, Interval]]()
        measured: dict[tuple[str, int], Measured] = {}
        with closing(rows for seed in seeds for rows in _under(changed(settings, seed=seed), factor_of, run_id, ledger)) as ended:
            for done, rows in enumerate(ended, start=1):
                ran += rows
                measured |= {(of.row.name, of.seed): _measured(of, settings, spent) for of in rows}
                # Resampling takes its time: rows that nothing came to are as they were.
                for name in {of.row.name for of in rows}:
                    pooled[name] = _pooled([of for of in ran if of.row.name == name], settings)
                runs = [measured[of.row.name, of.seed] for of in _in_order(ran, baselines)]
                about = {of.row.name: methods()[of.method] for of in ran}
                result = comparing.compare(KEY, runs, notes, pooled, _missing(done, total), about, _sample(ran, settings))
                show(result, folder)
                if done == 1:
                    progress.note(f"rows stand in {folder / PAGE} as they end")
    return publish(result, folder, run_id, ledger)


def _missing(done: int, total: int) -> str:
    """What a page says first that does not have all rows yet."""
    return f"Not finished: {done} of {total} are here, counting each system under each seed." if done < total else ""


def _in_order(ran: Sequence[Ran], baselines: Sequence[str]) -> list[Ran]:
    """Rows in the order of their methods, each with all its seeds, whichever ended first."""
    return sorted(ran, key=lambda of: (baselines.index(of.method), of.row.name, of.seed))


def _sample(ran: Sequence[Ran], settings: Settings) -> SamplePrompt | None:
    """One prompt under the seed that most rows have by now."""
    from moslim_core.data.rows import load_prompts, plain_text
    from moslim_core.report import side_by_side

    seed = Counter(of.seed for of in ran).most_common(1)[0][0]
    shown = [of for of in ran if of.seed == seed]
    prompts = [plain_text(prompt) for prompt in load_prompts(shown[0].rows / "prompts.evaluation.jsonl")]
    answers = {of.row.name: of.answers.requests for of in shown}
    return side_by_side(answers, prompts, settings.preferences, seed)


class Ran(NamedTuple):
    """A row under a seed, with the stages that are its method's own, the answers that it was measured from, and the rows that it learnt
    from."""

    seed: int
    row: Row
    outcomes: list[Outcome]
    answers: Answers
    rows: Path

    @property
    def method(self) -> str:
        return self.outcomes[-1].stage.removeprefix(COMPARED)


def _under(settings: Settings, factors: Mapping[str, float], run_id: str, ledger: Ledger) -> Iterator[list[Ran]]:
    """The rows of each method under the settings' seed as they end, each with its learning rates times its factor."""
    from moslim_core.baselines.measure import read_answers, read_rows

    shared, start = _shared(settings, run_id)
    rows = ledger.download(shared["rows"].uri)
    others = [partial(_run, name, _learning(settings, factor), shared, run_id) for name, factor in factors.items() if name != START]
    with closing(all_of(others, settings.placement)) as ended:
        for outcomes in chain([[start]], ended):
            folder = ledger.download(outcomes[-1].ref.uri)
            yield [Ran(settings.seed, row, outcomes, read_answers(folder, row), rows) for row in read_rows(folder)]


def _searched(settings: Settings, baselines: Sequence[str], factors: Sequence[float], run_id: str) -> Iterator[tuple[str, float, float]]:
    """(method that trains; of the factors the one that suits it best, the first of equals; seconds of its trials of the others).

    Where a method has several rows, they count alike.
    """
    from moslim_core.baselines.measure import SUITABILITY, method_of

    shared, _ = _shared(settings, run_id)

    def best(name: str) -> tuple[str, float, float]:
        trials = [_run(name, _learning(settings, factor), shared, run_id) for factor in factors]
        suits = [fmean(value for metric, value in of[-1].metrics.items() if metric.endswith(SUITABILITY)) for of in trials]
        kept = suits.index(max(suits))
        return name, factors[kept], sum(outcome.seconds for n, of in enumerate(trials) if n != kept for outcome in of)

    return all_of([partial(best, name) for name in baselines if method_of(name).trained], settings.placement)


def _search_said(factor_of: Mapping[str, float], factors: Sequence[float], seed: int) -> str:
    from moslim_core.baselines.measure import method_of

    if not factors:
        return "Learning rates were not searched: every system has the settings' own."
    choices = ", ".join(f"{name} {factor:g}" for name, factor in factor_of.items() if method_of(name).trained)
    return (
        f"Learning rates were searched with seed {seed} among {', '.join(f'{f:g}' for f in factors)} times the settings' own: kept is what "
        f"brings answers to training prompts farthest where the weights point, by the reward model. Kept: {choices}."
    )


def _learning(settings: Settings, factor: float) -> Settings:
    """With every learning rate of a policy multiplied: what does not learn in one way learns in the other."""
    policy = settings.policy
    return override(
        settings,
        [f"policy.learning_rate={policy.learning_rate * factor}", f"policy.sft.learning_rate={policy.sft.learning_rate * factor}"],
    )


def _shared(settings: Settings, run_id: str) -> tuple[dict[str, ArtifactRef], Outcome]:
    """(inputs of all methods but the starting model, that one's stage)."""
    outcomes = run_pipeline(settings, "train_reward", f"seed {settings.seed}", run_id).outcomes
    shared = {"rows": outcomes["label"].ref, "reward_model": outcomes["train_reward"].ref}
    if settings.evaluation.judge == "reward_model":
        shared["judge"] = train_judge(settings, shared["rows"], run_id).ref
    start = compared(START, settings, shared, run_id)
    return {**shared, "start": start.ref}, start


def _run(name: str, settings: Settings, shared: Mapping[str, ArtifactRef], run_id: str) -> list[Outcome]:
    """The stages of a method; of this project's the policy's training is a stage of its own."""
    own_optimiser = ours().get(name)
    if own_optimiser is None:
        return [compared(name, settings, dict(shared), run_id)]
    own = _optimised_by(settings, own_optimiser)
    policy = run_pipeline(own, "train_policy", f"{name}, seed {own.seed}", run_id).outcomes["train_policy"]
    return [policy, compared(name, own, {**shared, "policy": policy.ref}, run_id)]


def _optimised_by(settings: Settings, optimiser: str) -> Settings:
    """Raises UserError where the rest of the settings does not go with the optimiser."""
    from moslim_core.policy.optimisers import require_fit

    own = override(settings, [f"policy.optimiser={optimiser}"])
    require_fit(own.policy)
    return own


def _measured(ran: Ran, settings: Settings, spent: Mapping[str, float]) -> Measured:
    """`spent`: seconds of each method's search for its learning rate, if there was one."""
    from moslim_core.baselines.method import PHASES
    from moslim_core.evaluation import pooling
    from moslim_core.evaluation.fronts import FIGURES

    row = ran.row
    over_prompts = {f"front/{figure}": getattr(row.front, figure) for figure in FIGURES}
    over_prompts |= row.control.following | row.control.distances
    over_prompts |= pooling.joint([ran.answers.together], settings.preferences, settings.evaluation.bootstrap)
    control = pooling.control([ran.answers.requests], settings.preferences, settings.evaluation.bootstrap)
    over_prompts |= {name: of for name, of in control.items() if name.endswith("/spread")}
    figures = {name: of.value for name, of in over_prompts.items() if of.value is not None}
    figures |= {pooling.CROSS_TALK: row.control.left_open} if row.control.left_open is not None else {}
    figures |= {name: value.value for name, value in _besides(row).items() if value.value is not None}
    figures |= {"without verdict": float(sum(point.missing for point in row.front.points))}
    shares = {name: getattr(row.control, name) for name in ("truncated", "repeats_instruction", "off_topic", "restated")}
    figures |= {name: share for name, share in shares.items() if share is not None}
    costs = {label: float(getattr(row.cost, name)) for name, label in COSTS.items()}
    costs["peak memory, GB"] = max(outcome.peak_memory_gb for outcome in ran.outcomes)
    costs |= {f"seconds of training: {phase}": row.cost.seconds.get(phase, 0.0) for phase in PHASES}
    costs |= {"seconds of search for the learning rate": spent[ran.method]} if spent else {}
    seconds = sum(outcome.seconds for outcome in ran.outcomes)
    return Measured(variant=row.name, seed=ran.seed, figures=figures, seconds=seconds, over_prompts=over_prompts, costs=costs)


def _besides(row: Row) -> dict[str, Interval]:
    """How far attacks move answers, and the means of the suite's benchmarks, over their prompts."""
    attacks = {f"attack/{kind}": share for kind, share in row.attacked.gave_way.items()} if row.attacked else {}
    measures = {(name, measure): of for name, run in row.benchmarks.items() for measure, of in run.result.measures.items()}
    return attacks | {f"{name}/{measure}": of.overall.mean for (name, measure), of in measures.items()}


def _pooled(seeds: Sequence[Ran], settings: Settings) -> dict[str, Interval]:
    """Means of a row over its seeds, with intervals over their prompts."""
    from moslim_core.evaluation import pooling
    from moslim_core.evaluation.operating_points import steered

    traded, bootstrap = steered(settings.preferences), settings.evaluation.bootstrap
    assert traded is not None, "methods were compared on what they trade"
    fronts = pooling.fronts([(of.row.front, of.answers.points) for of in seeds], traded, bootstrap)
    control = pooling.control([of.answers.requests for of in seeds], settings.preferences, bootstrap)
    # Over several seeds these have intervals over seeds alone.
    besides = _besides(seeds[0].row) if len(seeds) == 1 else {}
    joint = pooling.joint([of.answers.together for of in seeds], settings.preferences, bootstrap)
    return {**fronts, **control, **besides, **joint}
