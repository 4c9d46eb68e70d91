"""A work directory with a tiny policy, the reward model that trained it and an evaluation, all on record."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.studio.made import make_evaluation, make_policy, make_reward_model, record


@pytest.fixture(scope="session")
def policy_folder(tiny_chat: Path, studio_home: Path) -> Path:
    return make_policy(tiny_chat, studio_home / "made" / "policy", studio_home / ".moslim" / "models")


@pytest.fixture(scope="session")
def studio_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studio")


@pytest.fixture(scope="session")
def work_dir(studio_home: Path, policy_folder: Path, tiny_encoder: Path) -> Iterator[Path]:
    """Read by all tests, so none may change what runs made."""
    made = studio_home / "made"
    before = dict(os.environ)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("MOSLIM_MODEL_CACHE", raising=False)
        record(
            studio_home / ".moslim",
            policy_folder,
            make_reward_model(tiny_encoder, made / "reward"),
            make_evaluation(made / "evaluation"),
        )
        yield studio_home / ".moslim"
    os.environ.clear()
    os.environ.update(before)
