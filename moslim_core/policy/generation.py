"""Answers from a chat model: batched by length and common beginnings, reproducible by seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from moslim_core.errors import UserError
from moslim_core.preferences import Message, chat_text

LENGTH_STEP = 32


class Sampling(NamedTuple):
    """Plain sampling from the model's own distribution; temperature 0 is greedy."""

    max_new_tokens: int
    temperature: float = 1.0
    batch_size: int = 64


class Answer(NamedTuple):
    text: str
    tokens: int
    truncated: bool


def generate(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Sequence[Message]],
    sampling: Sampling,
    seed: int,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[Answer]:
    """One answer per conversation, in the given order. `on_batch` gets the number answered so far.

    The seed is set per batch, and batches are cut from the conversations sorted by length and text, so that the same call gives the
    same answers. Raises UserError naming the conversation whose prompt leaves no room for an answer.
    """
    import torch
    from transformers import GenerationConfig

    from moslim_core.models import end_tokens
    from moslim_core.policy.shared_prefix import generate_completions

    texts = [chat_text(tokenizer, c) for c in conversations]
    prompts: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    room = (getattr(model.config, "max_position_embeddings", None) or 10**9) - sampling.max_new_tokens
    for index, prompt in enumerate(prompts):
        if len(prompt) > room:
            raise UserError(
                f"prompt {index + 1} has {len(prompt)} tokens, but the model's context leaves room for {room}.\nShorten or drop it."
            )
    # Of like length, and among these such as begin alike side by side.
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]) // LENGTH_STEP, prompts[i], i))
    settings: dict[str, Any] = {"do_sample": sampling.temperature > 0}
    if sampling.temperature > 0:
        settings |= {"temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
    stops = end_tokens(model, tokenizer)
    config = GenerationConfig(max_new_tokens=sampling.max_new_tokens, pad_token_id=tokenizer.pad_token_id, eos_token_id=stops, **settings)
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), sampling.batch_size):
        chosen = order[start : start + sampling.batch_size]
        torch.manual_seed(random.Random(f"{seed}/{start}").getrandbits(63))
        with torch.inference_mode():
            completions = generate_completions(model, [prompts[i] for i in chosen], config)
        for index, ids in zip(chosen, completions, strict=True):
            ended = bool(ids) and ids[-1] in stops
            kept = ids[:-1] if ended else ids
            answers[index] = Answer(tokenizer.decode(kept, skip_special_tokens=True).strip(), len(kept), truncated=not ended)
        on_batch(len(answers))
    return [answers[i] for i in range(len(texts))]
