"""Policy runs on a tiny model in seconds: the settings that the tests share, and what a run left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from moslim_core.data.rows import write_json_lines
from moslim_core.policy import training
from moslim_core.preferences import Message, PreferenceSchema
from moslim_core.registry import optimiser
from moslim_core.reward.model import create
from moslim_core.settings import Settings
from moslim_core.training.progress import Progress

PREFERENCES: list[dict[str, Any]] = [
    {"name": "warmth", "levels": ["cold", "neutral", "warm"]},
    {"name": "length", "levels": ["short", "long"]},
]
STEPS, PROMPTS, GROUP = 4, 2, 4
OPTIMISERS = list(optimiser.own)
# Rated answers to every prompt: with the end of the turn 2 to 4 tokens of the tiny tokenizer, and one that is too long.
RATED = ("good", "bad", "no", "so it is", "warm rain", "This answer is good and helpful, and long. 1234567890")


def random_reward_model(encoder: Path, preferences: list[dict[str, Any]], folder: Path) -> Path:
    """A reward model with random heads that are sure of themselves, so that rewards differ; saved in `folder`, which is returned."""
    torch.manual_seed(0)
    model, tokenizer = create(str(encoder), PreferenceSchema.model_validate(preferences), None, 32)
    for head in model.heads:
        head.linear.weight.data *= 20
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def prompts(said: str = "Rain number {}?") -> list[list[Message]]:
    return [[{"role": "user", "content": said.format(i)}] for i in range(5)]


def write_rows(folder: Path, said: str = "Rain number {}?") -> None:
    """Prompts, and their rated answers where there are none yet, as the label stage writes them."""
    write_json_lines(folder / "prompts.train.jsonl", ({"prompt": p} for p in prompts(said)))
    if (folder / "train.jsonl").is_file():
        return
    rows = ({"prompt": p, "response": r, "labels": {}, "source": "made"} for p in prompts(said) for r in RATED)
    write_json_lines(folder / "train.jsonl", rows)


COMMON: dict[str, Any] = {
    "steps": STEPS,
    "prompts_per_step": 1,
    "targets_per_prompt": PROMPTS,
    "group_size": GROUP,
    "micro_batch": 3,
    "max_new_tokens": 6,
    "learning_rate": 0.01,
    "lora_rank": 2,
    "lora_layers": 1,
    "held_out_fraction": 0.2,
    "checkpoint_every": 2,
}


def train(
    folder: Path,
    base: Path,
    reward: Path,
    output: str | None,
    mapping: dict[str, str],
    preferences: list[dict[str, Any]] = PREFERENCES,
    dtype: str = "float32",
    said: str = "Rain number {}?",
    **policy: Any,
) -> Settings:
    write_rows(folder, said)
    settings = Settings.model_validate(
        {
            "seed": 3,
            "preferences": preferences,
            "model": {"base": str(base), "dtype": dtype, "device": "cpu"},
            "mapping": mapping,
            "policy": COMMON | policy,
        }
    )
    # One of several processes that is not the first writes nothing.
    progress = Progress(folder / f"{output}.jsonl" if output else None)
    training.train(settings, folder, reward, folder, folder / "checkpoints", folder / str(output), progress)
    return settings


def metrics(folder: Path, output: str) -> dict[int, dict[str, float]]:
    events = [json.loads(line) for line in (folder / f"{output}.jsonl").read_text().splitlines()]
    return {e["step"]: e["values"] for e in events if e["event"] == "metrics"}
