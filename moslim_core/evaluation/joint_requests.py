"""Control where one request names several preferences: does each still follow its own level? (ours)

Every evaluation prompt has requests for two and for three preferences at levels drawn by chance, independent of one another, so that each
preference's correlation is its own. Combinations that training held out are left to the main measurement, which reports them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel

from moslim_core.evaluation.answers import answer_pairs
from moslim_core.evaluation.controllability import Obtained
from moslim_core.evaluation.judges import Judge
from moslim_core.evaluation.system import System
from moslim_core.policy.generation import Sampling
from moslim_core.preferences import Message, PreferenceSchema, Targets, is_held_out
from moslim_core.statistics.agreement import spearman
from moslim_core.statistics.bootstrap import Interval, interval, resamples

LARGEST = 3


class Together(BaseModel):
    """Of one system: {number of preferences named in a request: {preference: Spearman of its requested and obtained levels}}."""

    spearman: dict[int, dict[str, Interval]]


def requests_together(schema: PreferenceSchema, held_out: list[Targets], prompts: int, each: int, seed: int) -> list[tuple[int, Targets]]:
    """(prompt, targets): `each` requests for two steered preferences, and as many for three, of every prompt."""
    steered = [p for p in schema.preferences if not p.is_guard]
    rng = random.Random(f"{seed}/together")
    requests = []
    for prompt in range(prompts):
        for size in range(2, min(LARGEST, len(steered)) + 1):
            for _ in range(each):
                # Where nearly all is held out there may be no other combination.
                for _ in range(100):
                    chosen = Targets({p.name: rng.choice(p.requestable) for p in rng.sample(steered, size)})
                    if not is_held_out(chosen, held_out):
                        requests.append((prompt, schema.targets(chosen)))
                        break
    return requests


def answers(
    system: System,
    schema: PreferenceSchema,
    held_out: list[Targets],
    prompts: Sequence[Sequence[Message]],
    each: int,
    judge: Judge,
    sampling: Sampling,
) -> list[Obtained]:
    """One judged answer to each of `requests_together`. Raises UserError where a prompt leaves no room for an answer."""
    return answer_pairs(system, "together", prompts, requests_together(schema, held_out, len(prompts), each, system.seed), judge, sampling)


def together(rows: Sequence[Obtained], alone: Sequence[Obtained], schema: PreferenceSchema, bootstrap: int, seed: int) -> Together:
    """Of answers to requests for several preferences, beside those to requests for one."""
    steered = [p.name for p in schema.preferences if not p.is_guard]
    by_size: dict[int, list[Obtained]] = {1: [row for row in alone if len(row.targets) == 1]}
    for row in rows:
        by_size.setdefault(len(row.targets), []).append(row)
    return Together(
        spearman={size: {name: _spearman(of, name, bootstrap, seed) for name in steered} for size, of in sorted(by_size.items())}
    )


def _spearman(rows: Sequence[Obtained], name: str, bootstrap: int, seed: int) -> Interval:
    known = [(row.prompt, row.targets[name], row.levels[name]) for row in rows if name in row.targets and name in row.levels]
    if not known:
        return Interval(value=None, low=None, high=None)
    prompts, requested, obtained = (np.array(column, dtype=float) for column in zip(*known, strict=True))
    return interval(spearman, (requested, obtained), resamples(prompts.astype(int), bootstrap, seed))
