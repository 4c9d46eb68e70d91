"""What an answer loses for what no preference is about: it breaks off, leaves its question, or only says it again. (ours)"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from moslim_core.policy.settings import PolicySettings
from moslim_core.reward.empty_answers import empty_answers
from moslim_core.reward.topic import Topic


class Penalties:
    """`truncation_penalty` for an unfinished answer, `off_topic_penalty` for one that is not about its question (reward/topic.py),
    `restatement_penalty` for one that only says it again (reward/restatement.py)."""

    def __init__(self, policy: PolicySettings, cache: Path, device: torch.device | str) -> None:
        """`cache`: where fetched models are kept; `device`: where the topic's encoder goes. Raises UserError without it."""
        self.policy = policy
        self.topic = Topic(cache, device) if policy.off_topic_penalty else None

    def __call__(
        self, questions: Sequence[str], texts: Sequence[str], unfinished: Sequence[bool]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(what each of n answers loses, (n,); by reason 1 for those that tell nothing, (n,))."""
        empty = {reason: np.array(of, dtype=float) for reason, of in empty_answers(questions, texts, self.topic).items()}
        lost = self.policy.truncation_penalty * np.array(unfinished, dtype=float) + self.policy.restatement_penalty * empty["restated"]
        return lost + self.policy.off_topic_penalty * empty.get("off_topic", 0.0), empty
