"""One method through the harness: it trains, answers at every operating point, and an independent judge says what was obtained.

Files of a row: `front.<row>.json`, `controllability.<row>.json`, `cost.<row>.json`; the judged answers to the
operating points, point by point, in `points.<row>.jsonl`, under every level alone in `requests.<row>.jsonl`, and under several at once in
`together.<row>.jsonl`. Control under attack and public benchmarks leave the files that an evaluation's suite has.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moslim_core import registry
from moslim_core.baselines import OWN, ours
from moslim_core.baselines.levels import Levels, LevelsByRequest
from moslim_core.baselines.levels_by_weights import LevelsByWeights
from moslim_core.baselines.method import Context, Cost, LevelBased, Method
from moslim_core.data.rows import read_json_lines, write_json_lines
from moslim_core.evaluation import attack
from moslim_core.evaluation.answers import empty
from moslim_core.evaluation.benchmarks.run import Run
from moslim_core.evaluation.controllability import Controllability, Obtained, controllability
from moslim_core.evaluation.fronts import FIGURES, Front, front, inner_product, reference_of, score_table
from moslim_core.evaluation.joint_requests import requests_together
from moslim_core.evaluation.suite import CONTROL, Benchmarks, read_attack, read_benchmarks
from moslim_core.models import pick_device
from moslim_core.policy.generation import Answer
from moslim_core.preferences import Message, Targets
from moslim_core.reward.topic import Topic
from moslim_core.settings_section import changed
from moslim_core.training.distributed import is_first, join, take_own_device

# A metric of each row that trains, by which settings may be chosen: neither judge nor evaluation prompts have a part in it.
SUITABILITY = "suitability"


class Row(NamedTuple):
    """What was measured of one row. `attacked`: None where nothing was attacked; `benchmarks`: those of the suite, by name."""

    name: str
    front: Front
    control: Controllability
    cost: Cost
    attacked: attack.UnderAttack | None = None
    benchmarks: dict[str, Run] = {}


class Answers(NamedTuple):
    """What a row was measured from: judged answers point by point, under every level alone, and under several at once."""

    points: list[list[Obtained]]
    requests: list[Obtained]
    together: list[Obtained]


def method_of(name: str) -> type[Method]:
    """Raises UserError where there is none."""
    return registry.baseline[OWN if name in ours() else name]


def measure(name: str, context: Context) -> dict[str, float]:
    """Train the method `name` and measure its rows into `context.output`; their key numbers, as row/figure.

    Several processes train together, as the settings' policy does; then the first one measures, and the others have no numbers.
    """
    take_own_device()
    join(pick_device(context.settings.model.device))
    method: Method = method_of(name)(context)
    method.train()
    if not is_first():
        return {}
    context.output.mkdir(parents=True, exist_ok=True)
    settings = context.settings
    topic = Topic(context.cache) if settings.evaluation.topic else None
    wanted = requests_together(settings.preferences, [], len(context.prompts), settings.evaluation.together, settings.seed)
    metrics: dict[str, float] = {}
    benchmarks = _benchmarks(context)
    for row in method.rows:
        levels: Levels
        levels = LevelsByRequest(method, context) if isinstance(method, LevelBased) else LevelsByWeights(method, row, context)
        answers, requested, typical = levels.points
        row_front = _front(answers, requested, context)
        rows, together = levels.alone(), levels.together(wanted)
        nothing = empty(rows, context.prompts, topic)
        control = controllability(rows, settings.preferences, [], settings.evaluation.bootstrap, settings.seed, nothing)
        cost = method.cost(row)
        if cost.reward_models and not settings.reward.shared:
            cost = changed(cost, reward_models=len(settings.preferences))
        for what, value in (("front", row_front), ("controllability", control), ("cost", cost)):
            (context.output / f"{what}.{row}.json").write_text(value.model_dump_json(indent=1), encoding="utf-8")
        for what, given in (("points", [a for point in answers for a in point]), ("requests", rows), ("together", together)):
            write_json_lines(context.output / f"{what}.{row}.jsonl", (a.model_dump() for a in given))
        numbers = {f"front/{figure}": getattr(row_front, figure).value for figure in FIGURES}
        numbers |= {f"{preference}/spearman": of.spearman.value for preference, of in control.preferences.items()}
        if typical:
            numbers[SUITABILITY] = suitability(typical, context)
        numbers |= _attack(row, levels, rows, context)
        if benchmarks:
            numbers |= benchmarks.of_answers(row, partial(_respond, levels, benchmarks), settings.seed)
        metrics |= {f"{row}/{figure}": float(value) for figure, value in numbers.items() if value is not None}
    if benchmarks and benchmarks.replies:
        model, tokenizer = context.chat_model(settings.model.base)
        for row in method.rows:
            fluency = benchmarks.of_fluency(row, model, tokenizer, settings.seed)
            metrics |= {f"{row}/{figure}": value for figure, value in fluency.items() if value is not None}
    return metrics


def _benchmarks(context: Context) -> Benchmarks | None:
    """Of the suite, None where it has none."""
    settings = context.settings
    if not set(settings.evaluation.suite) - {CONTROL}:
        return None
    return Benchmarks(
        settings.evaluation,
        settings.preferences,
        settings.policy.max_new_tokens,
        context.rows,
        context.endpoint,
        context.cache,
        context.output,
        settings.data.near_duplicates,
    )


def _respond(
    levels: Levels, benchmarks: Benchmarks, what: str, conversations: list[list[Message]]
) -> tuple[list[list[Message]], list[Answer | None]]:
    """Read is the bare question: a row that states nothing in the prompt is measured as one that does."""
    requested = [(place, benchmarks.targets) for place in range(len(conversations))]
    return conversations, levels.answers(what, conversations, requested, benchmarks.sampling)


def _attack(row: str, levels: Levels, alone: Sequence[Obtained], context: Context) -> dict[str, float | None]:
    """How far each kind of attack moves answers, the figures being written to the output folder."""
    settings, judge = context.settings, context.judge
    prompts = context.prompts[: settings.evaluation.attack_prompts]
    if not prompts:
        return {}
    tried = attack.attempts(settings.preferences, prompts, settings.seed)
    given = levels.answers("attack", [of.conversation for of in tried], [(of.prompt, of.targets) for of in tried], context.sampling)
    rows = attack.judged_attempts(tried, given, prompts, judge)
    under = attack.under_attack(rows, alone, settings.preferences, len(prompts), settings.evaluation.bootstrap, settings.seed)
    (context.output / f"attack.{row}.json").write_text(under.model_dump_json(indent=1), encoding="utf-8")
    write_json_lines(context.output / f"attacked.{row}.jsonl", (a.model_dump() for a in rows))
    return {f"attack/{kind}": share.value for kind, share in under.gave_way.items()}


def suitability(typical: Sequence[dict[str, float]], context: Context) -> float:
    """How well the settings suit a method: mean over operating points of w . s, s being the scores of its `typical` levels. (ours)"""
    scores = np.array([[p.score(levels[p.name]) for p in context.schema.preferences] for levels in typical])
    return inner_product(scores, context.weights)


def _front(points: Sequence[list[Obtained]], requested: list[Targets], context: Context) -> Front:
    tables = [score_table(answers, context.schema) for answers in points]
    reference = reference_of(tables, context.schema.names, context.reference)
    settings = context.settings
    return front(tables, context.weights, requested, context.schema.names, reference, settings.evaluation.bootstrap, settings.seed)


def read_answers(folder: Path, row: Row) -> Answers:
    """Of a row that was measured into a folder."""
    points, requests, together = (
        [Obtained.model_validate(value) for _, value in read_json_lines(folder / f"{what}.{row.name}.jsonl")]
        for what in ("points", "requests", "together")
    )
    each = len(points) // len(row.front.points)
    return Answers([points[start : start + each] for start in range(0, len(points), each)], requests, together)


def read_rows(folder: Path) -> Sequence[Row]:
    """Every row that was measured into a folder."""
    rows = []
    for file in sorted(folder.glob("front.*.json")):
        name = file.name.removeprefix("front.").removesuffix(".json")
        rows.append(
            Row(
                name,
                Front.model_validate_json(file.read_bytes()),
                Controllability.model_validate_json((folder / f"controllability.{name}.json").read_bytes()),
                Cost.model_validate_json((folder / f"cost.{name}.json").read_bytes()),
                read_attack(folder, name),
                read_benchmarks(folder, name),
            )
        )
    return rows
