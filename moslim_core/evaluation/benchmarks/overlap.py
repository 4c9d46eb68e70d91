"""Items whose first prompt was trained on, or nearly: an answer to them may be remembered, so they are dropped and counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from moslim_core.data.prompt_groups import PromptGroups
from moslim_core.evaluation.benchmarks.benchmark import Item
from moslim_core.preferences import Message

SAME, NEARLY = "prompt that also occurs in training", "prompt nearly the same as one in training"


def overlaps(items: Sequence[Item], trained: Iterable[list[Message]], near: float) -> list[str | None]:
    """Why each item is to be left out; None: it is not.

    Prompts are compared as the splits compare them (data/prompt_groups.py): the same but for case and white space, or word triples with a
    Jaccard similarity of at least `near`, and what hangs together through such pairs. 1: the same ones only.
    """
    prompts = PromptGroups(near)
    seen = {prompts.add(prompt) for prompt in trained}
    numbers = [prompts.add(item.conversation([]) or []) for item in items]
    group = prompts.groups()
    groups = {int(group[number]) for number in seen}
    return [SAME if number in seen else NEARLY if int(group[number]) in groups else None for number in numbers]
