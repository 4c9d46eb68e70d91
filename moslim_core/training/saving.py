"""What makes a trainer's checkpoint count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from moslim_core.training.checkpoints import mark
from moslim_core.training.distributed import wait


class MarkComplete(TrainerCallback):
    """Marks a checkpoint, with `state()`, after the trainer wrote everything else."""

    def __init__(self, state: Callable[[], dict[str, Any]] = dict) -> None:
        self.state = state

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # Every process writes its own random state, and its part of sharded weights.
        wait()
        if state.is_world_process_zero:
            mark(Path(args.output_dir) / f"checkpoint-{state.global_step}", self.state())
