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
from moslim_core.baselines.levels_by_weights import LevelsByWeights
from moslim_core.baselines.method import ByInstruction, Context, Cost, LevelBased, Method
from moslim_core.data.rows import read_json_lines, write_json_lines
from moslim_core.evaluation.answers import answer_pairs, empty, judged, requests
from moslim_core.evaluation.controllability import Controllability, Obtained, controllability
from moslim_core.evaluation.fronts import FIGURES, Front, front, inner_product, levels_of, reference_of, score_table
from moslim_core.evaluation.joint_requests import requests_together
from moslim_core.models import pick_device
from moslim_core.policy.generation import Answer
from moslim_core.preferences import Targets
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
    wanted = requests_together(settings.preferences, [], len(context.prompts), settings.evaluation.together, settings.seed)
    metrics: dict[str, float] = {}
    for row in method.rows:
        answers, requested, typical = _points(method, row, context)
        row_front = _front(answers, requested, context)
        if isinstance(method, LevelBased):
            rows, together = _under_requests(method, context), _together(method, wanted, context)
        else:
            levels = LevelsByWeights(method, row, context, answers, typical)
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
        metrics |= {f"{row}/{figure}": float(value) for figure, value in numbers.items() if value is not None}
    return metrics


def _points(method: Method, row: str, context: Context) -> tuple[list[list[Obtained]], list[Targets], list[dict[str, float]]]:
    """(judged answers, requested targets, typical levels of what was trained) at every operating point."""
    answers, requested, typical = [], [], []
    for number, weights in enumerate(context.weights, start=1):
        who, targets = method.at(row, weights), Targets()
        if isinstance(method, LevelBased):
            targets = levels_of(weights.tolist(), context.schema)
        answers.append(context.judged_answers(who, f"point {number}", targets))
        requested.append(targets)
        if method.trained:
            typical.append(context.typical_levels(who, f"typical {number}"))
    return answers, requested, typical


def suitability(typical: Sequence[dict[str, float]], context: Context) -> float:
    """How well the settings suit a method: mean over operating points of w . s, s being the scores of its `typical` levels. (ours)"""
    scores = np.array([[p.score(levels[p.name]) for p in context.schema.preferences] for levels in typical])
    return inner_product(scores, context.weights)


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
        for one in context.judged_answers(method.under(targets), f"request {', '.join(f'{n}={v}' for n, v in targets.items())}", targets)
    ]


def _together(method: LevelBased, wanted: Sequence[tuple[int, Targets]], context: Context) -> list[Obtained]:
    """Answers to requests for several levels at once."""
    if isinstance(method, ByInstruction):
        return answer_pairs(method.system, "together", context.prompts, wanted, context.judge, context.sampling)
    answers: list[Answer | None] = []
    for number, (prompt, targets) in enumerate(wanted):
        answers += method.under(targets).answers(f"together {number}", [context.prompts[prompt]], context.sampling)
    return judged(answers, wanted, context.prompts, context.judge)


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
