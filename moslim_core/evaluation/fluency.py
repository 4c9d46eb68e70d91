"""How fluent answers are: how little they surprise the starting model, which wrote well before anything was trained. (ours)"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from moslim_core.models import end_tokens
from moslim_core.policy.generation import Answer
from moslim_core.policy.log_probs import completion_log_probs
from moslim_core.policy.rollouts import padded
from moslim_core.preferences import Message, answered_tokens

# Answers read at once.
BATCH = 32


@torch.no_grad()
def surprise(model: Any, tokenizer: Any, replies: Sequence[tuple[list[Message], Answer]]) -> list[float | None]:
    """Of each (conversation, answer to it) the mean of -log p over the answer's tokens, in nats; None where it has no token."""
    values: list[float | None] = [None] * len(replies)
    rows, ends = [], set(end_tokens(model, tokenizer))
    for number, (conversation, answer) in enumerate(replies):
        ids, prompt_length = answered_tokens(tokenizer, conversation, answer.text)
        # Without its end, and what the template adds after that; a model's thoughts count as tokens, and stand in no text.
        if given := list(itertools.takewhile(lambda token: token not in ends, ids[prompt_length:][: answer.tokens])):
            rows.append((number, ids[:prompt_length], given))
    for start in range(0, len(rows), BATCH):
        numbers, prompts, answers = zip(*rows[start : start + BATCH], strict=True)
        answer_ids, mask = padded(answers, model.device)
        log_probs = completion_log_probs(model, prompts, answer_ids, mask).log_probs
        means = -(log_probs * mask).sum(dim=1) / mask.sum(dim=1)
        for number, value in zip(numbers, means.tolist(), strict=True):
            values[number] = value
    return values
