"""Answers of one system at the operating points of a front: weights on the simplex, each requested as levels. (ours)"""

from __future__ import annotations

from collections.abc import Sequence

from moslim_core.evaluation.answers import answer
from moslim_core.evaluation.controllability import Obtained
from moslim_core.evaluation.fronts import Front, front, levels_of, reference_of, score_table, simplex_grid
from moslim_core.evaluation.judges import Judge
from moslim_core.evaluation.system import System
from moslim_core.policy.generation import Sampling
from moslim_core.preferences import Message, PreferenceSchema


def steered(schema: PreferenceSchema) -> PreferenceSchema | None:
    """The preferences between which there is something to trade; None where fewer than two can be steered."""
    free = [p.model_dump() for p in schema.preferences if not p.is_guard]
    return PreferenceSchema.model_validate(free) if len(free) > 1 else None


def measure(
    system: System,
    schema: PreferenceSchema,
    points: int,
    prompts: Sequence[Sequence[Message]],
    judge: Judge,
    sampling: Sampling,
    reference: dict[str, float | None] | None,
    bootstrap: int,
) -> tuple[Front, list[Obtained]]:
    """(front, judged answers, prompt by prompt) over the steered preferences `schema`.

    `points`: how many, or as many as corners and centre need. `reference`: the reference point that the starting model's front has;
    None for the starting model itself.
    """
    weights = simplex_grid(len(schema), max(points, len(schema) + 1))
    targets = [levels_of(w, schema) for w in weights]
    rows = answer(system, "front", prompts, targets, judge, sampling)
    tables = [score_table(rows[point :: len(targets)], schema) for point in range(len(targets))]
    at = reference_of(tables, schema.names, reference)
    return front(tables, weights, targets, schema.names, at, bootstrap, system.seed), rows
