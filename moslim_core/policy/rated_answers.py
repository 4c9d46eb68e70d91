"""Rated answers as rollouts: what the data has for a prompt counts under every request that the prompt gets. (ours)

The reward model never sees the request, so that an answer that somebody wrote earns under a request what the same answer would earn if it
had been drawn, and costs no drawing.

A rated answer that runs on is one of them with its end taken off and the beginning of another put there. It counts as cut off. Beside the
answer itself it says where to end, at the place where it matters; what was drawn and cut off spreads its penalty over all its tokens.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moslim_core.data.rows import load_rows
from moslim_core.errors import UserError
from moslim_core.policy.shared_prefix import cut_at_ends
from moslim_core.preferences import Message, answered_tokens

# Tokens of the other answer: enough to say that this one did not end.
RUNS_ON = 4


class RatedAnswers:
    """The answers of a file of rated rows, as token ids with the end of their turn, by prompt."""

    def __init__(self, rows: Path, tokenizer: Any, ends: Sequence[int], max_new_tokens: int) -> None:
        """Answers longer than `max_new_tokens`, or that the chat template does not end, are left out: they would teach to break off."""
        self.tokenizer, self.ends = tokenizer, ends
        # {prompt: {token ids: text}}
        self.answers: dict[str, dict[tuple[int, ...], str]] = {}
        for row in load_rows(rows):
            ids, prompt_length = answered_tokens(tokenizer, row.prompt, row.response)
            (answer,) = cut_at_ends([ids[prompt_length:]], ends)
            if answer and answer[-1] in ends and len(answer) <= max_new_tokens:
                self.answers.setdefault(_key(row.prompt), {}).setdefault(tuple(answer), row.response)

    def prompts(self, prompts: Sequence[list[Message]]) -> list[list[Message]]:
        """Those that have two answers at least. Raises UserError where there are none."""
        comparable = [prompt for prompt in prompts if len(self.answers.get(_key(prompt), ())) > 1]
        if not comparable:
            raise UserError(
                f"policy.rated_answers: none of the {len(prompts)} training prompts has two rated answers that end within "
                "policy.max_new_tokens.\nRaise policy.max_new_tokens, give data with several answers a prompt, or set rated_answers=0."
            )
        return comparable

    def of(self, prompt: Sequence[Message], count: int, rng: random.Random, run_on: int = 0) -> list[list[int]]:
        """At most `count` of the answers to a prompt, `run_on` of them running on: the longest of the others, which ends are for all."""
        known = list(self.answers.get(_key(prompt), {}).items())
        chosen = rng.sample(range(len(known)), max(0, min(count - run_on, len(known))))
        longest = sorted(chosen, key=lambda n: len(known[n][0]), reverse=True)[:run_on]
        whole = [list(known[n][0]) for n in chosen]
        others = {n: [text for m, (_, text) in enumerate(known) if m != n] for n in longest}
        return whole + [self._running_on(prompt, *known[n], rng.choice(others[n])) for n in longest if others[n]]

    def _running_on(self, prompt: Sequence[Message], answer: Sequence[int], text: str, other: str) -> list[int]:
        ids, prompt_length = answered_tokens(self.tokenizer, prompt, f"{text} {other}")
        # As much as the answer, without its end, and a little of the other.
        beginning = ids[prompt_length:][: len(answer) - 1 + RUNS_ON]
        return [token for token in beginning if token not in self.ends]


def _key(prompt: Sequence[Message]) -> str:
    return json.dumps([[m["role"], m["content"]] for m in prompt])
