"""Rated answers as rollouts: what the data has for a prompt counts under every request that the prompt gets. (ours)

The reward model never sees the request, so that an answer that somebody wrote earns under a request what the same answer would earn if it
had been drawn, and costs no drawing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unicodedata import category

from moslim_core.data.rows import load_rows
from moslim_core.errors import UserError
from moslim_core.policy.shared_prefix import cut_at_ends
from moslim_core.preferences import Message, answered_tokens

# Where more of the rated answers than this end with punctuation, they are sentences, and an answer that does not is unfinished.
SENTENCES = 0.95


class NoRatedAnswersError(UserError):
    """No prompt has two rated answers to compare."""


class RatedAnswers:
    """The answers of a file of rated rows, as token ids with the end of their turn, by prompt. `sentences`: whether they are such."""

    def __init__(self, rows: Path, tokenizer: Any, ends: Sequence[int], max_new_tokens: int) -> None:
        """Answers longer than `max_new_tokens`, or that the chat template does not end, are left out: they would teach to break off."""
        # {prompt: token ids in the rows' order, each once}
        self.answers: dict[str, dict[tuple[int, ...], None]] = {}
        finished = []
        for row in load_rows(rows):
            ids, prompt_length = answered_tokens(tokenizer, row.prompt, row.response)
            (answer,) = cut_at_ends([ids[prompt_length:]], ends)
            if answer and answer[-1] in ends and len(answer) <= max_new_tokens:
                self.answers.setdefault(_key(row.prompt), {}).setdefault(tuple(answer))
                finished.append(ends_with_punctuation(row.response))
        self.sentences = sum(finished) > SENTENCES * len(finished)

    def prompts(self, prompts: Sequence[list[Message]]) -> list[list[Message]]:
        """Those that have two answers at least. Raises NoRatedAnswersError where there are none."""
        comparable = [prompt for prompt in prompts if len(self.answers.get(_key(prompt), ())) > 1]
        if not comparable:
            raise NoRatedAnswersError(
                f"policy.rated_answers: none of the {len(prompts)} training prompts has two rated answers that end within "
                "policy.max_new_tokens.\nRaise policy.max_new_tokens, give data with several answers a prompt, or set rated_answers=0."
            )
        return comparable

    def of(self, prompt: Sequence[Message], count: int, rng: random.Random) -> list[list[int]]:
        """At most `count` of the answers to a prompt."""
        known = list(self.answers.get(_key(prompt), ()))
        return [list(ids) for ids in rng.sample(known, min(count, len(known)))]


def ends_with_punctuation(text: str) -> bool:
    """Whether the last character is punctuation of any script."""
    return category(text.rstrip()[-1:] or " ").startswith("P")


def _key(prompt: Sequence[Message]) -> str:
    return json.dumps([[m["role"], m["content"]] for m in prompt])
