"""One method through the harness: it trains, answers at every operating point, and an independent judge says what was obtained.

Files of a row: `front.<row>.json`, `cost.<row>.json`, `answers.<row>.jsonl`, and `controllability.<row>.json` where levels steer.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from moslim_core.baselines import METHODS
from moslim_core.baselines.method import Answering, Context, Cost, LevelBased, Method
from moslim_core.data.rows import write_json_lines
from moslim_core.evaluation.answers import judged, requests
from moslim_core.evaluation.controllability import Controllability, Obtained, controllability
from moslim_core.evaluation.fronts import FIGURES, Front, front, levels_of, reference_of, score_table
from moslim_core.preferences import Targets


class Row(NamedTuple):
    """What was measured of one row; `control` where levels steer it."""

    name: str
    front: Front
    control: Controllability | None
    cost: Cost


def measure(name: str, context: Context) -> dict[str, float]:
    """Train the method `name` and measure its rows into `context.output`; their key numbers, as row/figure."""
    method: Method = importlib.import_module(METHODS[name]).Compared(context)
    method.train()
    context.output.mkdir(parents=True, exist_ok=True)
    metrics: dict[str, float] = {}
    for row in method.rows:
        found = _front(method, row, context)
        numbers = {f"front/{figure}": getattr(found, figure).value for figure in FIGURES}
        if isinstance(method, LevelBased):
            control = _control(method, row, context)
            numbers |= {f"{preference}/spearman": of.spearman.value for preference, of in control.preferences.items()}
        cost = method.cost(row)
        (context.output / f"cost.{row}.json").write_text(cost.model_dump_json(indent=1), encoding="utf-8")
        metrics |= {f"{row}/{figure}": float(value) for figure, value in numbers.items() if value is not None}
    return metrics


def _front(method: Method, row: str, context: Context) -> Front:
    rows: list[Obtained] = []
    tables, asked = [], []
    for number, weights in enumerate(context.weights):
        levels = levels_of(weights.tolist(), context.schema) if isinstance(method, LevelBased) else Targets()
        obtained = _judged(method.at(row, weights), f"point {number + 1}", levels, context)
        rows += obtained
        asked.append(levels)
        tables.append(score_table(obtained, context.schema))
    reference = reference_of(tables, context.schema.names, context.reference)
    settings = context.settings
    found = front(tables, context.weights, asked, context.schema.names, reference, settings.evaluation.bootstrap, settings.seed)
    write_json_lines(context.output / f"answers.{row}.jsonl", (r.model_dump() for r in rows))
    (context.output / f"front.{row}.json").write_text(found.model_dump_json(indent=1), encoding="utf-8")
    return found


def _control(method: LevelBased, row: str, context: Context) -> Controllability:
    """Of every requestable level alone."""
    settings = context.settings
    rows = [
        one
        for targets in requests(settings.preferences, [])
        for one in _judged(method.under(targets), "request " + ", ".join(f"{n}={v}" for n, v in targets.items()), targets, context)
    ]
    found = controllability(rows, settings.preferences, [], settings.evaluation.bootstrap, settings.seed)
    (context.output / f"controllability.{row}.json").write_text(found.model_dump_json(indent=1), encoding="utf-8")
    return found


def _judged(who: Answering, what: str, targets: Targets, context: Context) -> list[Obtained]:
    """One judged answer per evaluation prompt. Raises UserError where a prompt leaves no room for an answer."""
    answers = who.answers(what, context.prompts, context.sampling)
    return judged(answers, [(number, targets) for number in range(len(answers))], context.prompts, context.judge)


def read_rows(folder: Path) -> Sequence[Row]:
    """Every row that was measured into a folder."""
    found = []
    for file in sorted(folder.glob("front.*.json")):
        name = file.name.removeprefix("front.").removesuffix(".json")
        control = folder / f"controllability.{name}.json"
        found.append(
            Row(
                name,
                Front.model_validate_json(file.read_bytes()),
                Controllability.model_validate_json(control.read_bytes()) if control.is_file() else None,
                Cost.model_validate_json((folder / f"cost.{name}.json").read_bytes()),
            )
        )
    return found
