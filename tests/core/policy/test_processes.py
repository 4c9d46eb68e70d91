"""Two processes that train together do what one does: the same rewards, statistics, advantages and updates on the same answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from moslim_core.distributed import refuse_sharded
from moslim_core.errors import UserError
from moslim_core.policy.artifact import PolicyCard
from moslim_core.policy.training import OPTIMISERS
from moslim_core.settings import PolicySettings
from tasks.machine import PACKAGED
from tests.core.policy.runs import metrics

RUN = Path(__file__).with_name("recorded_run.py")
ROOT = RUN.parents[3]
WAYS = [*OPTIMISERS, *(f"{optimiser}+relabel" for optimiser in OPTIMISERS), "rloo+token", "rloo+relabel+token"]
ACCELERATE = ["-m", "accelerate.commands.launch"]


def start(command: list[str], folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRL_EXPERIMENTAL_SILENCE": "1"}
    folder.mkdir()
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


def run(folder: Path, count: int, *arguments: str) -> None:
    launcher = [] if count == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    start([*launcher, str(RUN), str(folder), *arguments], folder)


@pytest.fixture(scope="module")
def both(tiny_chat: Path, reward_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders of all runs in one process and in two: starting a process takes longer than its run."""
    folders = [tmp_path_factory.mktemp("runs") / str(count) for count in (1, 2)]
    for count, folder in enumerate(folders, start=1):
        run(folder, count, str(tiny_chat), str(reward_folder), *WAYS)
    return folders


@pytest.mark.integration
@pytest.mark.parametrize("way", WAYS)
def test_one_and_two_processes_agree(way: str, both: list[Path]) -> None:
    alone, together = (metrics(folder / way, "output") for folder in both)
    assert list(alone) == list(together) == [1, 2, 3]
    for step, values in alone.items():
        for name in ("reward", "reward_std", "kl", "entropy", "loss", "grad_norm", "value_loss"):
            if name in values and not (way.startswith("online_dpo") and name != "grad_norm"):
                assert together[step][name] == pytest.approx(values[name], rel=1e-3, abs=2e-5), (step, name)
    outputs = [folder / way / "output" for folder in both]
    cards = [PolicyCard.load(output) for output in outputs]
    first, second = (json.dumps(card.mapping_state, sort_keys=True) for card in cards)
    flat = [[v for row in card.mapping_state["pooled"] for v in row[1:]] for card in cards]
    assert flat[0] == pytest.approx(flat[1], rel=1e-5), (first, second)
    weights = [load_file(output / "adapter_model.safetensors") for output in outputs]
    assert all(torch.allclose(weights[0][k], weights[1][k], atol=2e-4) for k in weights[0])
    assert any(v.abs().max() > 1e-3 for k, v in weights[0].items() if "lora_B" in k)


@pytest.mark.integration
def test_sharded_weights_learn_what_whole_ones_do(tiny_chat: Path, reward_folder: Path, tmp_path: Path) -> None:
    given = (str(tiny_chat), str(reward_folder), "rloo")
    run(tmp_path / "whole", 1, *given)
    options = ["--config_file", str(PACKAGED / "fsdp.yaml"), "--num_processes", "2"]
    start([*ACCELERATE, *options, str(RUN.with_name("sharded_run.py")), str(tmp_path / "parts"), *given], tmp_path / "parts")
    weights = [load_file(tmp_path / name / "rloo" / "output" / "adapter_model.safetensors") for name in ("whole", "parts")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.allclose(weights[0][k], weights[1][k], atol=1e-5) for k in weights[0])
    assert any(v.abs().max() > 1e-3 for k, v in weights[0].items() if "lora_B" in k)
    files = [sorted(f.name for f in (tmp_path / name / "rloo" / "output").iterdir()) for name in ("whole", "parts")]
    assert files[0] == files[1]


WHOLE: dict[str, Any] = {"accelerate": "fsdp", "processes": 2}


@pytest.mark.parametrize(
    ("settings", "shared", "named"),
    [
        ({"optimiser": "ppo"}, False, "policy.optimiser=rloo or grpo"),
        ({"relabel": True}, False, "policy.relabel=false"),
        ({"warm_start": "conditioned_sft"}, False, "policy.warm_start=none"),
        ({"save_merged": True}, False, "policy.save_merged=false"),
        ({"vllm": True}, False, "policy.vllm=false"),
        ({"processes": 1}, False, "policy.processes=2 or more"),
        ({}, True, "a reward model with weights of its own"),
    ],
)
def test_what_sharded_weights_need_is_named(settings: dict[str, Any], shared: bool, named: str) -> None:
    with pytest.raises(UserError) as caught:
        refuse_sharded(PolicySettings(**{**WHOLE, **settings}), shared)
    assert f"This needs {named}" in str(caught.value) and ";" not in str(caught.value)


def test_sharded_weights_that_can_be_trained() -> None:
    refuse_sharded(PolicySettings(**WHOLE), False)
    refuse_sharded(PolicySettings(**WHOLE, optimiser="grpo"), False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"accelerate": "one-gpu", "processes": 2}, "accelerate=one-gpu starts one process, but processes=2: set accelerate=ddp"),
        ({"relabel": True, "prompts_per_step": 3, "processes": 2}, "prompts_per_step=3 can't be shared out evenly among processes=2"),
        ({"processes": 3, "prompts_per_step": 2, "targets_per_prompt": 2}, "16 answers can't be shared out evenly among processes=3"),
    ],
)
def test_settings_that_can_not_be_shared_out(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PolicySettings(**settings)
