"""A context for methods on tiny models, with a judge by rules and a reward model with random heads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moslim_core.baselines.method import Context
from moslim_core.data.rows import Row, write_json_lines
from moslim_core.evaluation.judges import AnnotatorJudge
from moslim_core.settings import Settings
from moslim_core.training.progress import Progress
from tests.core.policy.runs import random_reward_model

PREFERENCES: list[dict[str, Any]] = [
    {"name": "length", "levels": ["short", "middling", "long"], "annotator": {"measure": "word_count", "thresholds": [1, 3]}},
    {"name": "warmth", "levels": ["cold", "warm"], "annotator": {"measure": "warmth", "thresholds": [0.1]}},
]


@pytest.fixture(scope="session")
def reward_folder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_reward_model(tiny_encoder, PREFERENCES, tmp_path_factory.mktemp("reward"))


@pytest.fixture
def context(tiny_chat: Path, reward_folder: Path, tmp_path: Path) -> Callable[..., Context]:
    def make(work: str = "work", **policy: Any) -> Context:
        prompts = [[{"role": "user", "content": f"Rain number {i}?"}] for i in range(6)]
        write_json_lines(tmp_path / "prompts.train.jsonl", ({"prompt": p} for p in prompts[:4]))
        write_json_lines(tmp_path / "prompts.evaluation.jsonl", ({"prompt": p} for p in prompts[4:]))
        said = ("rain", "so it is", "warm rain", "good")
        rated = [Row(prompts[i % 4], said[i // 4], {"length": 1 + i % 3, "warmth": 1 + i % 2}, "made") for i in range(16)]
        write_json_lines(tmp_path / "train.jsonl", (row.to_json() for row in rated))
        common = {
            "steps": 4, "prompts_per_step": 1, "targets_per_prompt": 2, "group_size": 2, "max_new_tokens": 6, "learning_rate": 0.02,
            "lora_rank": 2, "checkpoint_every": 2, "held_out_fraction": 0.0,
        }  # fmt: skip
        settings = Settings.model_validate(
            {
                "seed": 3,
                "preferences": PREFERENCES,
                "model": {"base": str(tiny_chat), "dtype": "float32", "device": "cpu"},
                "policy": common | policy,
                "evaluation": {
                    "operating_points": 3,
                    "bootstrap": 100,
                    "temperature": 1.0,
                    "suite": ["controllability", "known_answers"],
                    "limit": 3,
                },
            }
        )
        judge = AnnotatorJudge(settings.preferences)
        folder = tmp_path / work
        return Context(settings, tmp_path, reward_folder, None, judge, None, tmp_path, folder, folder / "output", Progress())

    return make
