"""Several processes that train one model: who this one is, and what all of them have found."""

from __future__ import annotations

import os
from typing import Any

import numpy as np


def processes() -> int:
    """Processes of this training, as its launcher (torchrun, accelerate) says; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def take_own_device() -> None:
    """Make "cuda" mean this process's own GPU."""
    import torch

    if processes() > 1 and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def gather(local: np.ndarray) -> np.ndarray:
    """The rows of all processes, in their order."""
    if processes() == 1:
        return local
    import torch.distributed as dist

    parts: list[Any] = [None] * processes()
    dist.all_gather_object(parts, local)
    return np.concatenate(parts)


def agree(value: bool) -> bool:
    """What the first process says, in all of them: clocks differ, and one that stops alone leaves the others waiting."""
    if processes() == 1:
        return value
    import torch.distributed as dist

    said = [value]
    dist.broadcast_object_list(said, src=0)
    return said[0]


def wait() -> None:
    """Until all processes are here."""
    if processes() > 1:
        import torch.distributed as dist

        dist.barrier()
