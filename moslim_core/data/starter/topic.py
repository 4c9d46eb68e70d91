"""How far an answer is about its question, as a packaged sentence encoder sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel

from moslim_core import models
from moslim_core.models.loading import load_tokenizer, load_weights
from moslim_core.reward.model import pool

ENCODER = "minilm-l6"
BATCH = 128


def topics(questions: Sequence[str], answers: Sequence[str], cache: Path) -> list[float]:
    """Cosines in [-1, 1], to two digits, so that another machine's rounding changes none."""
    source = models.resolve(ENCODER, cache)
    model: Any = load_weights(AutoModel, source, ENCODER, backbone=True).eval()
    tokenizer = load_tokenizer(source, ENCODER)
    texts = sorted({*questions, *answers}, key=len)
    embeddings: dict[str, Tensor] = {}
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        tokens = tokenizer(batch, padding=True, truncation=True, max_length=128, return_tensors="pt")
        with torch.inference_mode():
            states = model(**tokens).last_hidden_state
        vectors = torch.nn.functional.normalize(pool(states, tokens["attention_mask"], "mean"), dim=1)
        embeddings |= dict(zip(batch, vectors, strict=True))
    return [round(float(embeddings[question] @ embeddings[answer]), 2) for question, answer in zip(questions, answers, strict=True)]
