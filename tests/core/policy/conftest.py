"""A reward model for tiny policies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moslim_core.preferences import PreferenceSchema
from moslim_core.reward.model import create
from tests.core.policy.runs import PREFERENCES


@pytest.fixture(scope="session")
def reward_folder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    torch.manual_seed(0)
    model, tokenizer = create(str(tiny_encoder), PreferenceSchema.model_validate(PREFERENCES), None, 32)
    for head in model.heads:
        head.linear.weight.data *= 20  # sure of itself, so that rewards differ
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
