"""Fluency: the starting model's own log-probabilities of what was answered."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moslim_core import models
from moslim_core.evaluation.fluency import surprise
from moslim_core.policy.generation import Answer, Sampling, generate
from moslim_core.preferences import prompt_tokens


def test_surprise_is_the_mean_over_the_tokens_that_were_drawn(tiny_chat: Path) -> None:
    model, tokenizer = models.load_chat_model(str(tiny_chat), tiny_chat, "float32", "cpu")
    conversations = [[{"role": "user", "content": text}] for text in ("Rain?", "Will it snow tomorrow, or the day after?")]
    answers = [Answer(" rain falls", 2, truncated=True), Answer("", 0, truncated=False)]
    cut, nothing = surprise(model, tokenizer, list(zip(conversations, answers, strict=True)))
    (prompt,) = prompt_tokens(tokenizer, conversations[:1])
    given = tokenizer(" rain falls", add_special_tokens=False)["input_ids"][:2]
    logits = model(torch.tensor([prompt + given])).logits[0, len(prompt) - 1 : -1]
    wanted = -logits.log_softmax(-1)[range(len(given)), given].mean()
    assert cut == pytest.approx(wanted.item(), rel=1e-4) and nothing is None


def test_what_a_model_wrote_surprises_it_less_than_its_opposite(tiny_chat: Path) -> None:
    model, tokenizer = models.load_chat_model(str(tiny_chat), tiny_chat, "float32", "cpu")
    conversations = [[{"role": "user", "content": f"Rain number {n}?"}] for n in range(40)]
    own = generate(model, tokenizer, conversations, Sampling(6, 0.5), 0)
    # More than a batch, in the order given.
    first = surprise(model, tokenizer, list(zip(conversations, own, strict=True)))
    again = surprise(model, tokenizer, list(zip(conversations[::-1], own[::-1], strict=True)))
    assert [a for a in again[::-1] if a] == pytest.approx([a for a in first if a], rel=1e-3)
    with torch.no_grad():
        model.get_output_embeddings().weight.neg_()
    other = surprise(model, tokenizer, list(zip(conversations, own, strict=True)))
    assert sum(a for a in other if a) > sum(a for a in first if a)
