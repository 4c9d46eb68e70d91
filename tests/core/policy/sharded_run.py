"""`accelerate launch ... sharded_run.py` with the arguments of `recorded_run.py`: the same run with FSDP, on CPU processes.

accelerate shards weights on GPUs only; here it takes a CPU for one. Answers are drawn from the sharded model, and then the recorded ones
are taken.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist
from accelerate.state import DistributedType, PartialState
from trl import RLOOTrainer

from tests.core.policy.recorded_run import main, recorded

DRAW = RLOOTrainer._generate_single_turn


def draw(self: Any, prompt_ids: list[list[int]], *more: Any) -> list[list[int]]:
    assert self.is_fsdp_enabled and len(DRAW(self, prompt_ids, *more)) == len(prompt_ids)
    return recorded(prompt_ids)


if __name__ == "__main__":
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    dist.init_process_group("gloo")
    for name, method in {
        "_prepare_backend": lambda *_: ("gloo", DistributedType.MULTI_GPU),
        "wait_for_everyone": lambda self: dist.barrier(),
    }.items():
        setattr(PartialState, name, method)
    RLOOTrainer._generate_single_turn = draw  # type: ignore[method-assign]
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
