"""Compared systems train in as many processes as this project's policy, so that their seconds and memory compare."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from moslim_core.baselines import methods
from moslim_core.baselines.measure import read_rows
from moslim_core.baselines.method import Context
from moslim_core.errors import UserError
from moslim_core.settings_section import changed
from tasks.stages.compare_systems import stage_of

RUN = Path(__file__).with_name("measured_run.py")
# Reinforcement learning, and supervised learning on what was drawn before.
TRAINED = ("rlphf", "ric")


@pytest.mark.integration
def test_two_processes_train_and_one_measures(context: Callable[..., Context], tmp_path: Path) -> None:
    made = context(processes=2, prompts_per_step=2, targets_per_prompt=1)
    settings = tmp_path / "settings.json"
    settings.write_text(made.settings.model_dump_json())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(RUN)]
    arguments = [str(settings), str(made.rows), str(made.reward_model), str(made.work), *TRAINED]
    environment = {**os.environ, "PYTHONPATH": str(RUN.parents[3]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in TRAINED:
        first, second = (json.loads((made.work / name / f"metrics.{rank}.json").read_text()) for rank in (0, 1))
        assert first and not second
        (row,) = read_rows(made.work / name / "output")
        assert row.name == name and row.cost.rollouts == 4 * 4
        assert all(seconds > 0 for seconds in row.cost.seconds.values())
    shares = sorted((made.work / "ric").glob("round.*.jsonl"))
    drawn = [sum(len(json.loads(line)[1]) for line in file.read_text().splitlines()) for file in shares]
    assert drawn == [8, 8]
    first, second = (file.read_text() for file in shares)
    assert first != second


@pytest.mark.parametrize("name", methods())
def test_a_stage_starts_as_many_processes_as_its_training_takes(name: str, context: Callable[..., Context]) -> None:
    settings = context(processes=2, prompts_per_step=2).settings
    trains = name not in ("prompt_only", "best_of_n") and not name.startswith("moslim_")
    assert stage_of(name).launch(settings).processes == (2 if trains else 1)


@pytest.mark.parametrize("name", ["ric", "cpo"])
def test_supervised_methods_say_that_they_do_not_know_sharded_weights(name: str, context: Callable[..., Context]) -> None:
    settings = context(prompts_per_step=2).settings
    sharded = changed(settings, policy=changed(settings.policy, accelerate="fsdp", processes=2))
    with pytest.raises(UserError, match=rf"which {name}'s training does not know"):
        stage_of(name).launch(sharded)
