"""The starter set's raw answers: the packaged model, after demonstrations of each style, answers every prompt."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from moslim_core.data.starter.demonstrations import QUESTIONS, STYLES, Style
from moslim_core.policy.generation import Sampling, generate
from moslim_core.preferences import Message

# No answer of the demo is longer; at 0.7 this model leaves the topic far more often.
SAMPLING = Sampling(max_new_tokens=48, temperature=0.5, batch_size=240)


def draw(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    seed: int,
    answers_file: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[dict[str, Any]]:
    """One row an answer: prompt, response as drawn, and `ended`, whether the model ended it. `answers_file`: what a rerun does not redo."""
    rng = random.Random(seed)
    done, total = 0, len(prompts) * sum(style.draws for style in STYLES)
    for style in STYLES:
        repeated = [prompt for prompt in prompts for _ in range(style.draws)]
        conversations = [_shown(style, prompt) for prompt in repeated]
        report = partial(_advance, on_progress, done, total)
        answers = generate(model, tokenizer, conversations, SAMPLING, rng.getrandbits(32), report, answers_file)
        done += len(repeated)
        for prompt, answer in zip(repeated, answers, strict=True):
            yield {"prompt": prompt, "response": answer.text, "ended": not answer.truncated}


def _shown(style: Style, prompt: str) -> list[Message]:
    turns = [{"role": "system", "content": style.system}]
    for question, answer in zip(QUESTIONS, style.answers, strict=True):
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [*turns, {"role": "user", "content": prompt}]


def _advance(on_progress: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    on_progress(before + done, total)
