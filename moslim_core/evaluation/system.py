"""One model under evaluation: asked in any number of ways, under targets that are stated as they were in training. (ours)"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moslim_core.policy.generation import Answer, Sampling, generate, room
from moslim_core.preferences import Message, Placement, PreferenceSchema, Targets, condition, prompt_tokens
from moslim_core.training.progress import Progress


@dataclass(frozen=True)
class System:
    """`name`: as people read it; `answers_folder`: for answers, so that what is killed goes on; `seed`: of sampling."""

    name: str
    model: Any
    tokenizer: Any
    schema: PreferenceSchema
    placement: Placement
    seed: int
    answers_folder: Path
    progress: Progress

    def conditioned(self, messages: Sequence[Message], targets: Targets, place: object) -> list[Message]:
        """The conversation with its instruction, whose wording depends on seed, place and targets alone: every system reads the same."""
        return condition(messages, targets, self.schema, self.placement, random.Random(f"{self.seed}/{place}/{sorted(targets.items())}"))

    def answers(self, what: str, conversations: Sequence[Sequence[Message]], sampling: Sampling) -> list[Answer | None]:
        """One per conversation; None where the model's context has no room for it. `what` names this use of the system."""
        lengths = [len(prompt) for prompt in prompt_tokens(self.tokenizer, conversations)]
        fits = [n for n, length in enumerate(lengths) if length <= room(self.model, sampling.max_new_tokens)]
        given = generate(
            self.model,
            self.tokenizer,
            [conversations[n] for n in fits],
            sampling,
            self.seed,
            on_batch=lambda done: self.progress.update(f"{what}: answers of {self.name}", done, len(fits)),
            answers_file=self.answers_folder / f"{what}.jsonl",
        )
        answered = dict(zip(fits, given, strict=True))
        return [answered.get(n) for n in range(len(conversations))]
