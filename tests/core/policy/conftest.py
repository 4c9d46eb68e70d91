"""A reward model for tiny policies."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.policy.runs import PREFERENCES, random_reward_model


@pytest.fixture(scope="session")
def reward_folder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_reward_model(tiny_encoder, PREFERENCES, tmp_path_factory.mktemp("reward"))
