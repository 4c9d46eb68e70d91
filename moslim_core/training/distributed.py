"""Several processes that train one model: who this one is, what each holds of it, and what is gathered from all of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def processes() -> int:
    """Processes of this training, as its launcher (torchrun, accelerate) says; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def sharded() -> bool:
    """Whether each process holds a part of the weights only (FSDP), as accelerate's launcher says."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def mixed_precision() -> str:
    """The precision that accelerate's launcher asks for: "no" (that of the weights; so without a launcher), "bf16" or "fp16"."""
    return os.environ.get("ACCELERATE_MIXED_PRECISION", "no")


def take_own_device() -> None:
    """Make "cuda" mean this process's own GPU."""
    import torch

    if processes() > 1 and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def join(device: str) -> None:
    """Meet the other processes, before a trainer would."""
    if processes() > 1:
        from accelerate import PartialState

        PartialState(**({"cpu": True, "backend": "gloo"} if device == "cpu" else {}))


def share(count: int) -> slice:
    """Which of `count` items are this process's to work on; all of them where there is one."""
    rank = int(os.environ.get("RANK", "0"))
    return slice(rank * count // processes(), (rank + 1) * count // processes())


def parts(local: T) -> list[T]:
    """`local` of each process, in their order."""
    if processes() == 1:
        return [local]
    import torch.distributed as dist

    gathered: list[Any] = [None] * processes()
    dist.all_gather_object(gathered, local)
    return gathered


def total(local: torch.Tensor) -> torch.Tensor:
    """The sum over all processes of a tensor of the same shape in each."""
    if processes() > 1:
        import torch.distributed as dist

        # What GPUs talk through takes tensors on a GPU only.
        moved = local.detach().clone().to("cuda" if dist.get_backend() == "nccl" else local.device)
        dist.all_reduce(moved)
        return moved.to(local.device)
    return local


def gather(local: np.ndarray) -> np.ndarray:
    """The rows (n, ...) of all processes, in the order of these; each may have another n."""
    return np.concatenate(parts(local))


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
