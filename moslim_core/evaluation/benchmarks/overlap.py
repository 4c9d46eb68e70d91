"""Items whose first prompt was trained on, or nearly: an answer to them may be remembered, so they are dropped and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from moslim_core.data.groups import PromptGroups
from moslim_core.evaluation.benchmarks.benchmark import AnyItem
from moslim_core.preferences import Message


def untrained(items: Sequence[AnyItem], trained: Iterable[list[Message]], near: float) -> tuple[list[AnyItem], Counter[str]]:
    """The items that are left, and how many were dropped for which reason.

    Prompts are compared as the splits compare them (data/groups.py): the same but for case and white space, or word triples with a
    Jaccard similarity of at least `near`, and what hangs together through such pairs. 1: the same ones only.
    """
    prompts = PromptGroups(near)
    seen = {prompts.add(prompt) for prompt in trained}
    numbers = [prompts.add(item.conversation([]) or []) for item in items]
    group = prompts.groups()
    groups = {int(group[number]) for number in seen}
    kept: list[AnyItem] = []
    dropped: Counter[str] = Counter()
    for item, number in zip(items, numbers, strict=True):
        if number in seen:
            dropped["prompt that also occurs in training"] += 1
        elif int(group[number]) in groups:
            dropped["prompt nearly the same as one in training"] += 1
        else:
            kept.append(item)
    return kept, dropped
