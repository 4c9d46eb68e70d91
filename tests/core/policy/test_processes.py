"""Two processes that train together do what one does: the same rewards, statistics, advantages and updates on the same answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from moslim_core.policy.artifact import PolicyCard
from moslim_core.policy.training import OPTIMISERS
from moslim_core.settings import PolicySettings
from tests.core.policy.runs import metrics

RUN = Path(__file__).with_name("recorded_run.py")
ROOT = RUN.parents[3]


def run(folder: Path, count: int, *arguments: str) -> None:
    launcher = [] if count == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRL_EXPERIMENTAL_SILENCE": "1"}
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, *launcher, str(RUN), str(folder), *arguments], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("optimiser", "way"), [*((o, w) for o in OPTIMISERS for w in ("plain", "relabel")), ("rloo", "token"), ("rloo", "relabel,token")]
)
def test_one_and_two_processes_agree(optimiser: str, way: str, tiny_chat: Path, reward_folder: Path, tmp_path: Path) -> None:
    for count in (1, 2):
        run(tmp_path / str(count), count, str(tiny_chat), str(reward_folder), "output", optimiser, way)
    alone, together = (metrics(tmp_path / str(count), "output") for count in (1, 2))
    assert list(alone) == list(together) == [1, 2, 3]
    for step, values in alone.items():
        for name in ("reward", "reward_std", "kl", "entropy", "loss", "grad_norm", "value_loss"):
            if name in values and not (optimiser == "online_dpo" and name != "grad_norm"):
                assert together[step][name] == pytest.approx(values[name], rel=1e-3, abs=2e-5), (step, name)
    cards = [PolicyCard.load(tmp_path / str(count) / "output") for count in (1, 2)]
    first, second = (json.dumps(card.mapping_state, sort_keys=True) for card in cards)
    flat = [[v for row in card.mapping_state["pooled"] for v in row[1:]] for card in cards]
    assert flat[0] == pytest.approx(flat[1], rel=1e-5), (first, second)
    weights = [load_file(tmp_path / str(count) / "output" / "adapter_model.safetensors") for count in (1, 2)]
    assert all(torch.allclose(weights[0][k], weights[1][k], atol=2e-4) for k in weights[0])
    assert any(v.abs().max() > 1e-3 for k, v in weights[0].items() if "lora_B" in k)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"relabel": True, "prompts_per_step": 3, "processes": 2}, "prompts_per_step=3 can't be shared out evenly among processes=2"),
        ({"processes": 3, "prompts_per_step": 2, "targets_per_prompt": 2}, "16 answers can't be shared out evenly among processes=3"),
    ],
)
def test_settings_that_can_not_be_shared_out(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PolicySettings(**settings)  # type: ignore[arg-type]
