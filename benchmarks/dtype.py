"""Is bfloat16 worth it on this CPU? Forward, training and generation of the packaged model, as ratios in one run.

python benchmarks/dtype.py
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from moslim_core import models

ROUNDS = 3


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    ids = torch.randint(5, 40000, (8, 96))
    with tempfile.TemporaryDirectory() as cache:
        loaded = {d: models.load_chat_model("smollm2-135m", Path(cache), d, "cpu")[0] for d in ("float32", "bfloat16")}  # type: ignore[arg-type]
        times: dict[str, dict[str, list[float]]] = {}
        # The two alternate, so that a slower minute of the machine meets both.
        for _ in range(ROUNDS):
            for dtype, model in loaded.items():
                measured = {
                    "forward": lambda m=model: m(ids).logits.detach(),
                    "training": lambda m=model: m(ids, labels=ids).loss.backward(),
                    "generation": lambda m=model: m.generate(ids, max_new_tokens=8, attention_mask=torch.ones_like(ids)),
                }
                for name, work in measured.items():
                    times.setdefault(name, {}).setdefault(dtype, []).append(seconds(work))
                model.zero_grad()
    for name, by_dtype in times.items():
        ratio = statistics.median(by_dtype["bfloat16"]) / statistics.median(by_dtype["float32"])
        print(f"{name}: bfloat16 takes {ratio:.2f} times as long as float32")
    print(f"AMX tiles: {torch.cpu._is_amx_tile_supported()}")


if __name__ == "__main__":
    main()
