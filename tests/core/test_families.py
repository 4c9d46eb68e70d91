"""Off-the-shelf models of many families through every stage: label, reward (whole and as an adapter), policy, evaluation, chat."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from moslim_core import models
from moslim_core.data.prepare import prepare
from moslim_core.data.rows import write_json_lines
from moslim_core.evaluation.judges import RewardModelJudge
from moslim_core.evaluation.suite import Control
from moslim_core.evaluation.system import System
from moslim_core.policy import training as policy_training
from moslim_core.policy.artifact import load_policy
from moslim_core.policy.shared_prefix import can_share
from moslim_core.policy.steerable import SteerablePolicy
from moslim_core.preflight import check_models
from moslim_core.progress import Progress
from moslim_core.reward import training as reward_training
from moslim_core.reward.scorer import RewardScorer
from moslim_core.section import changed
from moslim_core.settings import Settings
from tests.core.family_models import FAMILIES, make_family

RECURRENT = ("qwen3_next", "qwen3_5_text", "lfm2")


def settings_of(base: Path, folder: Path) -> Settings:
    rng = random.Random(0)
    rows = (
        {"prompt": f"How is number {n}?", "response": f"It is {'good' if level > 1 else 'bad'}.", "warmth": level}
        for n in range(30)
        for level in rng.sample((1, 2, 3), 2)
    )
    write_json_lines(folder / "rows.jsonl", rows)
    return Settings.model_validate(
        {
            "work_dir": folder,
            "preferences": [{"name": "warmth", "levels": ["cold", "neutral", "warm"]}],
            "data": {"source": "jsonl", "path": folder / "rows.jsonl"},
            "model": {"base": str(base), "dtype": "float32", "device": "cpu"},
            "reward": {"backbone": str(base), "epochs": 0.2, "batch_size": 4, "max_length": 48, "layers": None, "lora_rank": 2},
            "mapping": {"standardisation": "none"},
            "policy": {
                "steps": 2, "prompts_per_step": 1, "targets_per_prompt": 2, "group_size": 2, "micro_batch": 2, "max_new_tokens": 5,
                "learning_rate": 0.01, "lora_rank": 2, "optimiser": "rloo", "relabel": False, "credit": "answer",
            },
            "evaluation": {"limit": 2, "bootstrap": 100},
        }
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_goes_through_every_stage(family: str, tiny_chat: Path, tmp_path: Path) -> None:
    base = make_family(family, tiny_chat, tmp_path / "base")
    settings = settings_of(base, tmp_path)
    check_models(settings, tmp_path)
    rows, progress = tmp_path / "rows", Progress(tmp_path / "events.jsonl")
    prepare(settings, rows, tmp_path, progress)
    scorers = {}
    for tuning in ("full", "lora"):
        reward = changed(settings.reward, tuning=tuning)
        folder = tmp_path / tuning
        reward_training.train(
            reward, settings.model, settings.preferences, rows, "train", 0, tmp_path, tmp_path / f"{tuning}.steps", folder, progress
        )
        scorers[tuning] = RewardScorer.load(folder)
        assert scorers[tuning](["How?"], ["Good."])["warmth"].sum() == pytest.approx(1)
    policy = tmp_path / "policy"
    policy_training.train(settings, rows, tmp_path / "full", tmp_path, tmp_path / "steps", policy, progress)
    model, tokenizer, card = load_policy(policy, tmp_path, "float32", "cpu")
    start, _ = models.load_chat_model(str(base), tmp_path, "float32", "cpu")
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), start.parameters(), strict=True)), "nothing was learnt"
    assert can_share(model) == (family not in RECURRENT)
    assert models.context(model.config) == 512
    system = System("after", model, tokenizer, card.preferences, card.placement, 0, tmp_path / "kept", progress)
    judge = RewardModelJudge(scorers["lora"])
    (output := tmp_path / "evaluation").mkdir()
    found = Control(settings, card, rows, [judge], output).of("after", system)
    assert found["truncated"] is not None
    said = SteerablePolicy.from_pretrained(policy, tmp_path, "float32", "cpu").chat("Rain?", {"warmth": 3}, max_new_tokens=5)
    assert isinstance(said, str)
