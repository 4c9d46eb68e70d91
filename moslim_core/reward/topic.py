"""How far an answer is about its question, as a packaged sentence encoder sees them. (ours)

No preference says that an answer has to be about its question, and a policy that is asked for warm words alone soon says nothing else.
"""

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
MOST_TOKENS = 128
# An answer with less is off the topic. 4 % of the starter set's rows have, and 99.7 % of them beside another row's question.
LEAST = 0.4


class Topic:
    """The encoder, loaded once. Raises UserError where it is not to be had."""

    def __init__(self, cache: Path, device: torch.device | str = "cpu") -> None:
        source = models.resolve(ENCODER, cache)
        self.model: Any = load_weights(AutoModel, source, ENCODER, backbone=True).to(device).eval()
        self.tokenizer = load_tokenizer(source, ENCODER)

    def __call__(self, questions: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Cosines in [-1, 1] of n questions and their answers, to two digits, so that another machine's rounding changes none."""
        texts = sorted({*questions, *answers}, key=len)
        embeddings: dict[str, Tensor] = {}
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            tokens = self.tokenizer(batch, padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt").to(self.model.device)
            with torch.inference_mode():
                states = self.model(**tokens).last_hidden_state
            vectors = torch.nn.functional.normalize(pool(states, tokens["attention_mask"], "mean"), dim=1)
            embeddings |= dict(zip(batch, vectors, strict=True))
        return [round(float(embeddings[question] @ embeddings[answer]), 2) for question, answer in zip(questions, answers, strict=True)]

    def off(self, questions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        """Which of the answers are off their questions' topics."""
        return [cosine < LEAST for cosine in self(questions, answers)]
