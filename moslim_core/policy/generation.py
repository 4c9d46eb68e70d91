"""Answers from a chat model: batched, sorted by length, reproducible by seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from moslim_core.errors import UserError
from moslim_core.preferences import Message


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

    The seed is set per batch, and batches are cut from the conversations sorted by length, so that the same call gives the
    same answers. Raises UserError naming the conversation whose prompt leaves no room for an answer.
    """
    import torch
    from transformers import GenerationConfig

    texts = [tokenizer.apply_chat_template(list(c), tokenize=False, add_generation_prompt=True) for c in conversations]
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []
    room = (getattr(model.config, "max_position_embeddings", None) or 10**9) - sampling.max_new_tokens
    for index, length in enumerate(lengths):
        if length > room:
            raise UserError(f"prompt {index + 1} has {length} tokens, but the model's context leaves room for {room}.\nShorten or drop it.")
    order = sorted(range(len(texts)), key=lambda i: (lengths[i], i))
    settings: dict[str, Any] = {"do_sample": sampling.temperature > 0}
    if sampling.temperature > 0:
        settings |= {"temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=model.generation_config.eos_token_id or tokenizer.eos_token_id,
        **settings,
    )
    stops = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), sampling.batch_size):
        chosen = order[start : start + sampling.batch_size]
        batch = tokenizer([texts[i] for i in chosen], return_tensors="pt", padding=True, add_special_tokens=False)
        torch.manual_seed(random.Random(f"{seed}/{start}").getrandbits(63))
        with torch.inference_mode():
            output = model.generate(
                input_ids=batch["input_ids"].to(model.device),
                attention_mask=batch["attention_mask"].to(model.device),
                generation_config=config,
            )
        for index, ids in zip(chosen, output[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
            end = next((n for n, token in enumerate(ids) if token in stops), None)
            kept = ids if end is None else ids[:end]
            text = tokenizer.decode(kept, skip_special_tokens=True).strip()
            answers[index] = Answer(text, len(kept), truncated=end is None)
        on_batch(len(answers))
    return [answers[i] for i in range(len(texts))]
