"""Neither how rows are cut into passes nor how prompts are dealt to processes changes a step: loss, gradients, figures, statistics."""

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

from moslim_core.errors import UserError
from moslim_core.policy.artifact import PolicyCard
from moslim_core.policy.engines import transformers
from moslim_core.policy.settings import PolicySettings, refuse_sharded
from moslim_core.reward.scorer import RewardScorer
from tasks.execution.machine import PACKAGED
from tests.core.policy.recorded_run import EVERY, RUNS, Update, recorded, run, settings, update
from tests.core.policy.runs import OPTIMISERS, metrics, write_rows

RUN = Path(__file__).with_name("recorded_run.py")
ROOT = RUN.parents[3]
TOLERANCE = 1e-5


def start(command: list[str], folder: Path) -> None:
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def scorer(reward_folder: Path) -> RewardScorer:
    return RewardScorer.load(reward_folder)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder)
    return folder / "train.jsonl"


@pytest.fixture(scope="module", params=EVERY, ids=[f"{o}, {w}" for o, w in EVERY])
def alone(request: Any, tiny_chat: Path, scorer: RewardScorer, rows: Path) -> tuple[str, str, Update]:
    """Of one process that passes over all rows at once."""
    optimiser, way = request.param
    return optimiser, way, update(tiny_chat, scorer, rows, settings(optimiser, way))


@pytest.fixture(scope="module")
def together(tiny_chat: Path, reward_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two processes, everything in one start: that takes longer than all of it."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    start([*launcher, str(RUN), str(folder), str(tiny_chat), str(reward_folder)], folder)
    return folder


def require_same(figures: dict[str, float], gradients: list[dict[str, torch.Tensor]], expected: Update) -> None:
    assert figures.keys() == expected.figures.keys() and len(gradients) == len(expected.gradients) > 0
    for name, value in figures.items():
        # Sums of thousands of terms that cancel out: their own size says nothing of what rounding leaves.
        near = {"abs": 1e-4, "rel": 1e-4} if name == "credit_noise" or "explained" in name else {"abs": 1e-6, "rel": TOLERANCE}
        if name.startswith("loss/"):
            # A group's advantages, whose size is 1, cancel out in it: what rounding leaves goes by their size.
            near["abs"] = TOLERANCE
        assert value == pytest.approx(expected.figures[name], **near), name
    for found, wanted in zip(gradients, expected.gradients, strict=True):
        assert found.keys() == wanted.keys()
        first, second = (torch.cat([each[name].flatten() for name in sorted(each)]) for each in (found, wanted))
        assert torch.linalg.norm(first - second) <= TOLERANCE * torch.linalg.norm(second), "of the gradient's length"
        assert second.any()


def test_parts_of_any_size_learn_the_same(alone: tuple[str, str, Update], tiny_chat: Path, scorer: RewardScorer, rows: Path) -> None:
    optimiser, way, expected = alone
    for micro in (1, 2, 8) if way == "plain" else (3,):
        found = update(tiny_chat, scorer, rows, settings(optimiser, way, micro_batch=micro))
        require_same(found.figures, found.gradients, expected)


@pytest.mark.integration
def test_two_processes_learn_what_one_does(alone: tuple[str, str, Update], together: Path) -> None:
    optimiser, way, expected = alone
    home = together / f"{optimiser}, {way}"
    gradients: list[dict[str, torch.Tensor]] = [{} for _ in expected.gradients]
    for key, value in load_file(home / "gradients").items():
        number, _, name = key.partition("/")
        gradients[int(number)][name] = value
    figures = json.loads((home / "figures.json").read_text())
    require_same(figures, gradients, expected)
    assert figures["grad_norm/0"] > 1e-5, "whatever is compared, something is learnt"


@pytest.mark.integration
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_whole_runs_of_one_and_two_processes_agree(
    optimiser: str, together: Path, tiny_chat: Path, reward_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers, "generate_completions", lambda model, prompts, config, together: recorded(prompts))
    run(tmp_path, tiny_chat, reward_folder, optimiser, **RUNS[optimiser])
    homes = [tmp_path, together / optimiser]
    one, two = (metrics(home, "output") for home in homes)
    assert list(one) == list(two) == [1, 2]
    for step, values in one.items():
        timed = {k for k in values if k.startswith(("seconds/", "tokens_per"))} | {"entropy"}
        assert values.keys() == two[step].keys()
        for name in values.keys() - timed:
            assert two[step][name] == pytest.approx(values[name], rel=1e-3, abs=2e-4), (step, name)
    cards = [PolicyCard.load(home / "output") for home in homes]
    states = [[v for row in card.mapping_state["pooled"] for v in row[1:]] for card in cards]
    assert states[0] == pytest.approx(states[1], rel=1e-5)
    weights = [load_file(home / "output" / "adapter_model.safetensors") for home in homes]
    # Adam makes a full step of a gradient that is all rounding: few such weights may differ.
    assert all(torch.linalg.norm(weights[0][k] - weights[1][k]) < 0.01 * torch.linalg.norm(weights[0][k]) for k in weights[0])
    assert any(v.abs().max() > 1e-3 for k, v in weights[0].items() if "lora_B" in k)


@pytest.fixture(scope="module")
def shared_out(tiny_chat: Path, reward_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with weights that two processes share."""
    folder = tmp_path_factory.mktemp("runs") / "parts"
    options = ["-m", "accelerate.commands.launch", "--config_file", str(PACKAGED / "fsdp.yaml"), "--num_processes", "2"]
    script = str(RUN.with_name("sharded_run.py"))
    start([*options, script, str(folder), str(tiny_chat), str(reward_folder), *OPTIMISERS], folder)
    return folder


@pytest.mark.integration
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_sharded_weights_learn_what_whole_ones_do_and_go_on_after_a_kill(
    optimiser: str, shared_out: Path, tiny_chat: Path, reward_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers, "generate_completions", lambda model, prompts, config, together: recorded(prompts))
    run(tmp_path, tiny_chat, reward_folder, optimiser)
    whole = load_file(tmp_path / "output" / "adapter_model.safetensors")
    for output in ("at once", "output"):
        parts = load_file(shared_out / optimiser / output / "adapter_model.safetensors")
        assert whole.keys() == parts.keys()
        assert all(torch.linalg.norm(whole[k] - parts[k]) < 0.01 * torch.linalg.norm(whole[k]) for k in whole)
    assert any(v.abs().max() > 1e-3 for k, v in whole.items() if "lora_B" in k)
    files = [sorted(f.name for f in folder.iterdir()) for folder in (tmp_path / "output", shared_out / optimiser / "output")]
    assert files[0] == files[1]


WHOLE: dict[str, Any] = {"accelerate": "fsdp", "processes": 2}


@pytest.mark.parametrize(
    ("settings", "shared", "named"),
    [
        ({"warm_start": "conditioned_sft"}, False, "policy.warm_start=none"),
        ({"engine": "continuous_batching"}, False, "policy.engine=transformers"),
        ({"vllm_url": "http://localhost:1"}, False, "policy.engine=transformers"),
        ({"processes": 1}, False, "policy.processes=2 or more"),
        ({"update": "muon"}, False, "policy.update=adamw"),
        ({}, True, "a reward model with weights of its own"),
    ],
)
def test_what_sharded_weights_need_is_named(settings: dict[str, Any], shared: bool, named: str) -> None:
    with pytest.raises(UserError) as caught:
        refuse_sharded(PolicySettings(**{**WHOLE, **settings}), shared)
    assert f"This needs {named}" in str(caught.value) and ";" not in str(caught.value)


def test_the_first_version_of_sharding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(UserError, match="This needs fsdp_version: 2 in the accelerate configuration"):
        refuse_sharded(PolicySettings(**WHOLE), False)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_sharded_weights_that_can_be_trained(optimiser: str) -> None:
    refuse_sharded(PolicySettings(**WHOLE, optimiser=optimiser), False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"accelerate": "one-gpu", "processes": 2}, "accelerate=one-gpu starts one process, but processes=2: set accelerate=ddp"),
        ({"prompts_per_step": 3, "processes": 2}, "prompts_per_step=3 can't be shared out evenly among processes=2"),
    ],
)
def test_settings_that_can_not_be_shared_out(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PolicySettings(**settings)
