"""On what device a model runs, and with which dtype."""

from __future__ import annotations

import functools
import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from moslim_core.errors import UserError

if TYPE_CHECKING:
    import torch

DType = Literal["auto", "float32", "bfloat16", "float16"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]

# Below this share of the time, bfloat16 is worth its lower precision.
BFLOAT16_RATIO = 0.8
# Of products in bfloat16, to compare it by; fifteen take less where it is any use.
BFLOAT16_SECONDS = 0.2


def pick_device(name: DeviceName = "auto") -> str:
    """The device to use: as named, else CUDA, else MPS, else CPU."""
    if name == "cpu":
        # Nothing is left to ask torch, whose import takes seconds.
        return name
    import torch

    if name != "auto":
        if name == "cuda" and not torch.cuda.is_available():
            raise UserError("model.device=cuda, but torch sees no GPU here.\nSet model.device=auto, or install a CUDA build of torch.")
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(name: DType, device: str, cache: Path) -> torch.dtype:
    """The dtype to use: as named; else bfloat16 on GPUs that have it, and on CPUs what was measured to be faster here.

    CPUs with the same instructions differ: SmolLM2-135M in bfloat16 takes 0.3 times as long as in float32 on one with
    AVX512-BF16, 1.5 times on another (benchmarks/dtype.py). The measurement is stored in `cache`, so that all runs agree.
    """
    import torch

    if name != "auto":
        return getattr(torch, name)
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device != "cpu":
        return torch.float32
    dtype_file = cache / f"cpu-dtype-{platform.node() or 'here'}"
    if not dtype_file.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = dtype_file.with_name(f"{dtype_file.name}.{os.getpid()}.partial")
        unfinished.write_text("bfloat16" if bfloat16_time_ratio() < BFLOAT16_RATIO else "float32")
        unfinished.replace(dtype_file)
    return getattr(torch, dtype_file.read_text())


@functools.cache
def bfloat16_time_ratio() -> float:
    """How long a matrix product of a small model's size takes in bfloat16, as a multiple of float32's time.

    Measured once a process, in one thread's own time, as a machine that is busy with other work would decide by chance. Where bfloat16
    takes tens of times as long, which is plain at once, not often enough to be waited for.
    """
    import torch

    threads = torch.get_num_threads()
    pairs = [(torch.ones(256, 576, dtype=d), torch.ones(576, 1536, dtype=d)) for d in (torch.bfloat16, torch.float32)]
    times: list[list[float]] = [[], []]
    try:
        torch.set_num_threads(1)
        while len(times[0]) < 15 and (len(times[0]) < 3 or sum(times[0]) < BFLOAT16_SECONDS):
            for spent, (left, right) in zip(times, pairs, strict=True):
                start = time.thread_time()
                left @ right
                spent.append(time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    return min(times[0]) / min(times[1])
