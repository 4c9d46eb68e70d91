"""The only way anything in the project scores text: one pass for all heads, batches by length under a token budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moslim_core.errors import UserError
from moslim_core.models.loading import load_weights
from moslim_core.preferences import PreferenceSchema
from moslim_core.reward.model import MultiHeadRewardModel, encode, read_config, reward_tokenizer
from moslim_core.training.batching import batches


class RewardScorer:
    """Class probabilities of (question, answer) pairs. Deterministic and order-preserving."""

    def __init__(self, model: MultiHeadRewardModel, tokenizer: Any, token_budget: int = 8192) -> None:
        self.model, self.tokenizer, self.token_budget = model.eval(), tokenizer, token_budget
        self.schema: PreferenceSchema = model.config.schema()

    @classmethod
    def load(cls, directory: Path, device: str = "cpu") -> RewardScorer:
        """From a folder that the reward stage wrote. Raises UserError if it is none, damaged or not whole."""
        read_config(directory)
        model: Any = load_weights(MultiHeadRewardModel, str(directory), str(directory))
        return cls(model.to(device), reward_tokenizer(directory, model.config))

    def __call__(
        self,
        questions: Sequence[str],
        answers: Sequence[str],
        on_batch: Callable[[int], None] = lambda done: None,
    ) -> dict[str, np.ndarray]:
        """{preference: (n, K_i) calibrated probabilities} in the order given."""
        return self.probabilities(self.outputs(questions, answers, on_batch))

    def probabilities(self, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """{preference: (n, K_i) calibrated probabilities} of `outputs`."""
        tensors = {name: torch.from_numpy(values) for name, values in outputs.items()}
        with torch.inference_mode():
            probabilities = self.model.probabilities(tensors)
        return {name: p.numpy() for name, p in probabilities.items()}

    def outputs(
        self,
        questions: Sequence[str],
        answers: Sequence[str],
        on_batch: Callable[[int], None] = lambda done: None,
    ) -> dict[str, np.ndarray]:
        """{preference: (n, width_i) outputs of its head} in the order given; the applicability head's logits (n, m) where there is one.

        Raises UserError unless there are as many questions as answers, all of them texts.
        """
        for what, texts in (("questions", questions), ("answers", answers)):
            if isinstance(texts, str):
                raise UserError(f"the {what} are one text, and not several.\nGive a list, if only of one.")
            if others := [type(text).__name__ for text in texts if not isinstance(text, str)]:
                raise UserError(f"one of the {what} is {others[0]}, and no text.\nGive texts.")
        if len(questions) != len(answers):
            raise UserError(f"{len(questions)} questions, but {len(answers)} answers.\nGive one question for each answer.")
        result: dict[str, np.ndarray] = {}
        if not len(answers):
            return {name: np.zeros((0, head.width), dtype=np.float32) for name, head in self.model.head_of.items()}
        encoded = encode(self.tokenizer, list(questions), list(answers), self.model.config.max_tokens)
        done = 0
        for rows in self._batches([len(ids) for ids in encoded["input_ids"]]):
            batch = self.tokenizer.pad({k: [v[i] for i in rows] for k, v in encoded.items()}, return_tensors="pt")
            with torch.inference_mode():
                output = self.model(**{k: v.to(self.model.device) for k, v in batch.items()})
            for name, values in output.items():
                result.setdefault(name, np.zeros((len(answers), values.shape[1]), dtype=np.float32))[rows] = values.cpu().numpy()
            done += len(rows)
            on_batch(done)
        return result

    def _batches(self, lengths: list[int]) -> list[list[int]]:
        """Row indices, shortest first, so that padded size stays within the token budget (one row at least)."""
        return batches(sorted(range(len(lengths)), key=lambda i: (lengths[i], i)), lengths, self.token_budget)
