"""Answers from a chat model: batched by length and common beginnings, reproducible by seed, saved batch by batch."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from moslim_core.errors import UserError
from moslim_core.models import context, end_tokens
from moslim_core.policy.reader import Reader
from moslim_core.preferences import Message, prompt_tokens
from moslim_core.sampling import generation_config
from moslim_core.training.batching import batches

LENGTH_STEP = 32
# Of a batch, padded. A prompt of thousands of tokens would make all that share its batch as long.
BATCH_TOKENS = 32_768


class Sampling(NamedTuple):
    """Plain sampling from the model's own distribution; temperature 0 is greedy."""

    max_new_tokens: int
    temperature: float = 1.0
    batch_size: int = 64


class Answer(NamedTuple):
    """An answer as a person reads it, how many tokens it took, and whether the limit cut it."""

    text: str
    tokens: int
    truncated: bool


def room(model: Any, max_new_tokens: int) -> int:
    """The longest prompt, in tokens, that the model's context has room for beside an answer."""
    return context(model.config) - max_new_tokens


def batch_seed(seed: int, answered: int) -> int:
    """What the random numbers of a batch begin with, by the seed of the call and the number of answers before it."""
    return random.Random(f"{seed}/{answered}").getrandbits(63)


def generate(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Sequence[Message]],
    sampling: Sampling,
    seed: int,
    on_batch: Callable[[int], None] = lambda done: None,
    answers_file: Path | None = None,
) -> list[Answer]:
    """One answer per conversation, in the given order. `on_batch` gets the number answered so far.

    The seed is set per batch, and batches are cut from the conversations sorted by length and text, so that the same call gives the
    same answers. With an `answers_file` each batch is written there when it is done, and one that stands there is not done again: what is
    killed loses a batch at most. Raises UserError naming the conversation whose prompt leaves no room for an answer.
    """
    import torch

    from moslim_core.policy.shared_prefix import generate_completions

    prompts = prompt_tokens(tokenizer, conversations)
    most = room(model, sampling.max_new_tokens)
    for index, prompt in enumerate(prompts):
        if len(prompt) > most:
            raise UserError(
                f"prompt {index + 1} has {len(prompt)} tokens, but the model's context leaves room for {most}.\nShorten or drop it."
            )
    # Of like length, and among these such as begin alike side by side.
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]) // LENGTH_STEP, prompts[i], i))
    stops = end_tokens(model, tokenizer)
    config = generation_config(stops, tokenizer.pad_token_id, sampling.temperature, max_new_tokens=sampling.max_new_tokens)
    read = Reader(tokenizer, stops)
    done = _read(answers_file)
    answers: dict[int, Answer] = {}
    for chosen in batches(order, [len(p) + sampling.max_new_tokens for p in prompts], BATCH_TOKENS, sampling.batch_size):
        of_batch = batch_seed(seed, len(answers))
        key = hashlib.sha256(json.dumps([sampling, of_batch, [prompts[i] for i in chosen]]).encode()).hexdigest()
        if key not in done:
            torch.manual_seed(of_batch)
            with torch.inference_mode():
                completions = generate_completions(model, [prompts[i] for i in chosen], config)
            done[key] = [_answer(read, ids) for ids in completions]
            _write(answers_file, key, done[key])
        answers |= dict(zip(chosen, done[key], strict=True))
        on_batch(len(answers))
    return [answers[i] for i in range(len(prompts))]


def _answer(read: Reader, ids: list[int]) -> Answer:
    ended = bool(ids) and ids[-1] in read.ends
    return Answer(read(ids).strip(), len(ids) - ended, truncated=not ended)


def _read(answers_file: Path | None) -> dict[str, list[Answer]]:
    """Answers by the digest of their batch; a last line that a kill cut is taken out."""
    if answers_file is None or not answers_file.is_file():
        return {}
    text = answers_file.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    answers_file.write_text(whole, encoding="utf-8")
    return {key: [Answer(*answer) for answer in answers] for key, answers in map(json.loads, whole.splitlines())}


def _write(answers_file: Path | None, key: str, answers: list[Answer]) -> None:
    if answers_file is None:
        return
    answers_file.parent.mkdir(parents=True, exist_ok=True)
    with answers_file.open("a", encoding="utf-8") as file:
        file.write(json.dumps([key, answers]) + "\n")
