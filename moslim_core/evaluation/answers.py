"""What is asked in an evaluation of controllability, and the answers of one system to it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from moslim_core.data.rows import plain_text
from moslim_core.evaluation.controllability import Obtained
from moslim_core.evaluation.judges import Judge
from moslim_core.policy.generation import Sampling, generate
from moslim_core.preferences import Message, Placement, PreferenceSchema, Targets, condition, is_held_out
from moslim_core.progress import Progress


def requests(schema: PreferenceSchema, held_out: list[Targets]) -> list[Targets]:
    """Every requestable level alone, then each held-out combination with a seen one beside it that differs in one level."""
    alone = [Targets({p.name: level}) for p in schema.preferences for level in p.requestable]
    together: list[Targets] = []
    for pair in held_out:
        together.append(pair)
        seen = _seen_neighbour(pair, schema, held_out)
        if seen is not None and seen not in together:
            together.append(seen)
    return alone + together


def _seen_neighbour(pair: Targets, schema: PreferenceSchema, held_out: list[Targets]) -> Targets | None:
    for name in pair:
        for level in schema[name].requestable:
            other = Targets({**pair, name: level})
            if not is_held_out(other, held_out):
                return other
    return None


def answer(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[Message]],
    asked: Sequence[Targets],
    schema: PreferenceSchema,
    placement: Placement,
    judge: Judge,
    sampling: Sampling,
    seed: int,
    progress: Progress,
    phase: str,
) -> list[Obtained]:
    """One judged answer for every prompt under every request. The wording of an instruction depends on the prompt alone."""
    pairs = [(p, t) for p in range(len(prompts)) for t in asked]
    conversations = [condition(prompts[p], t, schema, placement, random.Random(f"{seed}/{p}/{sorted(t.items())}")) for p, t in pairs]
    answers = generate(model, tokenizer, conversations, sampling, seed, on_batch=lambda done: progress.update(phase, done, len(pairs)))
    levels = judge.levels([plain_text(prompts[p]) for p, _ in pairs], [a.text for a in answers])
    return [
        Obtained(prompt=p, targets=dict(t), text=a.text, tokens=a.tokens, truncated=a.truncated, levels=found)
        for (p, t), a, found in zip(pairs, answers, levels, strict=True)
    ]
