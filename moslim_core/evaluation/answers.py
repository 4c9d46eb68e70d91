"""The requests of an evaluation of controllability, and the answers of one system to them."""

from __future__ import annotations

from collections.abc import Sequence

from moslim_core.data.rows import plain_text
from moslim_core.errors import UserError
from moslim_core.evaluation.controllability import Obtained
from moslim_core.evaluation.judges import Judge
from moslim_core.evaluation.system import System
from moslim_core.policy.generation import Answer, Sampling
from moslim_core.preferences import Message, PreferenceSchema, Targets, is_held_out
from moslim_core.reward.empty_answers import empty_answers
from moslim_core.reward.topic import Topic


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
    system: System, what: str, prompts: Sequence[Sequence[Message]], targets: Sequence[Targets], judge: Judge, sampling: Sampling
) -> list[Obtained]:
    """One judged answer for every prompt under every request, prompt by prompt. The wording of an instruction depends on these alone.

    Raises UserError where a prompt leaves no room for an answer.
    """
    return answer_pairs(system, what, prompts, [(p, t) for p in range(len(prompts)) for t in targets], judge, sampling)


def answer_pairs(
    system: System,
    what: str,
    prompts: Sequence[Sequence[Message]],
    pairs: Sequence[tuple[int, Targets]],
    judge: Judge,
    sampling: Sampling,
) -> list[Obtained]:
    """As `answer`, one for each pair of a prompt, by its place, and the targets of its request."""
    answers = system.answers(what, [system.conditioned(prompts[p], t, p) for p, t in pairs], sampling)
    return judged(answers, pairs, prompts, judge)


def judged(
    answers: Sequence[Answer | None], pairs: Sequence[tuple[int, Targets]], prompts: Sequence[Sequence[Message]], judge: Judge
) -> list[Obtained]:
    """The answers with the levels that the judge gives them, `pairs` being the prompt and the targets of each.

    Raises UserError where a prompt left no room for an answer.
    """
    given = [a for a in answers if a is not None]
    if len(given) < len(answers):
        number = pairs[answers.index(None)][0] + 1
        raise UserError(f"evaluation prompt {number} leaves no room for an answer in the model's context.\nShorten or drop it.")
    levels = judge.levels([plain_text(prompts[p]) for p, _ in pairs], [a.text for a in given])
    return [
        Obtained(prompt=p, targets=dict(t), text=a.text, tokens=a.tokens, truncated=a.truncated, levels=obtained)
        for (p, t), a, obtained in zip(pairs, given, levels, strict=True)
    ]


def empty(rows: Sequence[Obtained], prompts: Sequence[Sequence[Message]], topic: Topic | None) -> dict[str, list[bool]]:
    """Which of the answers tell nothing, by reason (reward/empty_answers.py)."""
    return empty_answers([plain_text(prompts[r.prompt]) for r in rows], [r.text for r in rows], topic)
