"""One method through the harness: it trains, answers at every operating point, and an independent judge says what was obtained.

Files of a row: `front.<row>.json`, `controllability.<row>.json`, `cost.<row>.json`; the judged answers to the
operating points, point by point, in `points.<row>.jsonl`, under every level alone in `requests.<row>.jsonl`, and under several at once in
`together.<row>.jsonl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moslim_core import registry
from moslim_core.baselines import OWN, ours
from moslim_core.baselines.method import Answering, ByInstruction, Context, Cost, LevelBased, Method
from moslim_core.data.rows import plain_text, read_json_lines, write_json_lines
from moslim_core.evaluation.answers import answer_pairs, empty, judged, requests
from moslim_core.evaluation.controllability import Controllability, Obtained, controllability
from moslim_core.evaluation.fronts import FIGURES, Front, front, inner_product, levels_of, reference_of, score_table
from moslim_core.evaluation.joint_requests import requests_together
from moslim_core.models import pick_device
from moslim_core.policy.generation import Answer
from moslim_core.preferences import PreferenceSchema, Targets
from moslim_core.reward.metrics import expected_level
from moslim_core.reward.topic import Topic
from moslim_core.settings_section import changed
from moslim_core.training.distributed import is_first, join, take_own_device

# A metric of each row that trains, by which settings may be chosen: neither judge nor evaluation prompts have a part in it.
SUITABILITY = "suitability"


class Row(NamedTuple):
    """What was measured of one row."""

    name: str
    front: Front
    control: Controllability
    cost: Cost


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
    metrics: dict[str, float] = {}
    for row in method.rows:
        answers, requested, typical = _points(method, row, context, method.trained)
        row_front = _front(answers, requested, context)
        rows = _under_requests(method, context) if isinstance(method, LevelBased) else by_level(answers, typical, settings.preferences)
        nothing = empty(rows, context.prompts, topic)
        control = controllability(rows, settings.preferences, [], settings.evaluation.bootstrap, settings.seed, nothing)
        together = _together(method, answers, typical, context)
        models = 1 if settings.reward.shared else len(settings.preferences)
        cost = changed(method.cost(row), reward_models=models)
        for what, value in (("front", row_front), ("controllability", control), ("cost", cost)):
            (context.output / f"{what}.{row}.json").write_text(value.model_dump_json(indent=1), encoding="utf-8")
        for what, given in (("points", [a for point in answers for a in point]), ("requests", rows), ("together", together)):
            write_json_lines(context.output / f"{what}.{row}.jsonl", (a.model_dump() for a in given))
        numbers = {f"front/{figure}": getattr(row_front, figure).value for figure in FIGURES}
        numbers |= {f"{preference}/spearman": of.spearman.value for preference, of in control.preferences.items()}
        if typical:
            numbers[SUITABILITY] = suitability(typical, context)
        metrics |= {f"{row}/{figure}": float(value) for figure, value in numbers.items() if value is not None}
    return metrics


def _points(
    method: Method, row: str, context: Context, trained: bool
) -> tuple[list[list[Obtained]], list[Targets], list[dict[str, float]]]:
    """(judged answers, requested targets, `_typical` levels of what was trained) at every operating point."""
    answers, requested, typical = [], [], []
    for number, weights in enumerate(context.weights, start=1):
        who, targets = method.at(row, weights), Targets()
        if isinstance(method, LevelBased):
            targets = levels_of(weights.tolist(), context.schema)
        answers.append(_judged(who, f"point {number}", targets, context))
        requested.append(targets)
        if trained:
            typical.append(_typical(who, f"typical {number}", context))
    return answers, requested, typical


def _typical(who: Answering, what: str, context: Context) -> dict[str, float]:
    """{preference: mean expected level} of answers to training prompts, as the reward model sees them."""
    prompts = context.known_prompts
    given = [(p, a) for p, a in zip(prompts, who.answers(what, prompts, context.sampling), strict=True) if a is not None]
    probabilities = context.scorer([plain_text(p) for p, _ in given], [a.text for _, a in given])
    return {name: float(expected_level(p).mean()) for name, p in probabilities.items()}


def suitability(typical: Sequence[dict[str, float]], context: Context) -> float:
    """How well the settings suit a method: mean over operating points of w . s, s being the scores of its `typical` levels. (ours)"""
    scores = np.array([[p.score(levels[p.name]) for p in context.schema.preferences] for levels in typical])
    return inner_product(scores, context.weights)


def by_level(points: Sequence[list[Obtained]], typical: Sequence[dict[str, float]], schema: PreferenceSchema) -> list[Obtained]:
    """What a method that is steered by weights gives when a level is requested: its answers at the point where that level is nearest.

    So it has as fine a control as its operating points allow, and which point stands for which level is found without the judge
    and without the evaluation's prompts. (ours)
    """
    rows = []
    for targets in requests(schema, []):
        rows += [changed(a, targets=dict(targets)) for a in points[_nearest(typical, targets, schema)]]
    return rows


def _front(points: Sequence[list[Obtained]], requested: list[Targets], context: Context) -> Front:
    tables = [score_table(answers, context.schema) for answers in points]
    reference = reference_of(tables, context.schema.names, context.reference)
    settings = context.settings
    return front(tables, context.weights, requested, context.schema.names, reference, settings.evaluation.bootstrap, settings.seed)


def _under_requests(method: LevelBased, context: Context) -> list[Obtained]:
    """Answers under every requestable level alone."""
    return [
        one
        for targets in requests(context.settings.preferences, [])
        for one in _judged(method.under(targets), "request " + ", ".join(f"{n}={v}" for n, v in targets.items()), targets, context)
    ]


def _together(method: Method, points: list[list[Obtained]], typical: list[dict[str, float]], context: Context) -> list[Obtained]:
    """Answers to requests for two and three preferences at once, each prompt's own; of a method that takes weights those of the operating
    point that is nearest to all levels that are asked for."""
    schema, settings = context.settings.preferences, context.settings
    wanted = requests_together(schema, [], len(context.prompts), settings.evaluation.together, settings.seed)
    if isinstance(method, ByInstruction):
        return answer_pairs(method.system, "together", context.prompts, wanted, context.judge, context.sampling)
    if not isinstance(method, LevelBased):
        return [changed(points[_nearest(typical, targets, schema)][prompt], targets=dict(targets)) for prompt, targets in wanted]
    answers: list[Answer | None] = []
    for number, (prompt, targets) in enumerate(wanted):
        answers += method.under(targets).answers(f"together {number}", [context.prompts[prompt]], context.sampling)
    return judged(answers, wanted, context.prompts, context.judge)


def _nearest(typical: Sequence[dict[str, float]], targets: Targets, schema: PreferenceSchema) -> int:
    """The operating point whose typical levels are nearest to the requested ones, each distance as a share of the preference's range."""
    return min(range(len(typical)), key=lambda n: sum(abs(typical[n][of] - level) / (schema[of].k - 1) for of, level in targets.items()))


def _judged(who: Answering, what: str, targets: Targets, context: Context) -> list[Obtained]:
    """One judged answer per evaluation prompt. Raises UserError where a prompt leaves no room for an answer."""
    answers = who.answers(what, context.prompts, context.sampling)
    return judged(answers, [(number, targets) for number in range(len(answers))], context.prompts, context.judge)


def read_answers(folder: Path, row: Row) -> tuple[list[list[Obtained]], list[Obtained], list[Obtained]]:
    """(answers point by point, under every level alone, under several at once) that a row was measured from."""
    points, requests, together = (
        [Obtained.model_validate(value) for _, value in read_json_lines(folder / f"{what}.{row.name}.jsonl")]
        for what in ("points", "requests", "together")
    )
    each = len(points) // len(row.front.points)
    return [points[start : start + each] for start in range(0, len(points), each)], requests, together


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
            )
        )
    return rows
