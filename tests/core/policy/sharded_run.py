"""`accelerate launch ... sharded_run.py FOLDER BASE REWARD OPTIMISER...`: whole runs with FSDP, on CPU processes.

accelerate shards weights on GPUs only; here it takes a CPU for one. Answers are drawn from the sharded model, and then the recorded ones
are taken. Some runs are made once more, as after a kill between their two steps.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import DistributedType, PartialState

from moslim_core.policy.engines import transformers
from moslim_core.policy.shared_prefix import generate_completions
from moslim_core.training.distributed import is_first, sharded
from tests.core.policy.recorded_run import recorded, run

KILLED = ("rloo", "ppo")


def draw(model: Any, prompts: list[list[int]], config: Any, together: bool) -> list[list[int]]:
    assert sharded() and together and len(generate_completions(model, prompts, config, together)) == len(prompts)
    return recorded(prompts)


def main(folder: Path, base: Path, reward: Path, *optimisers: str) -> None:
    torch.set_num_threads(1)
    transformers.generate_completions = draw  # type: ignore[assignment]
    for optimiser in optimisers:
        home = folder / optimiser
        run(home, base, reward, optimiser, accelerate="fsdp", checkpoint_every=1)
        dist.barrier()
        if is_first():
            shutil.copytree(home / "output", home / "at once")
            shutil.rmtree(home / "checkpoints" / "checkpoint-2")
        dist.barrier()
        if optimiser in KILLED:
            run(home, base, reward, optimiser, accelerate="fsdp", checkpoint_every=1)


if __name__ == "__main__":
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    dist.init_process_group("gloo")
    for name, method in {
        "_prepare_backend": lambda *_: ("gloo", DistributedType.MULTI_GPU),
        "wait_for_everyone": lambda self: dist.barrier(),
    }.items():
        setattr(PartialState, name, method)
    main(*map(Path, sys.argv[1:4]), *sys.argv[4:])
    # Its threads must not outlive the interpreter (recorded_run.py).
    dist.destroy_process_group()
