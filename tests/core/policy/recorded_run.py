"""`python recorded_run.py FOLDER BASE REWARD WAY...`: tiny runs on recorded answers, alone or as one of several processes.

A way is an optimiser and what goes with it, as "rloo+relabel+token"; its run is in the folder of that name. What a process samples
depends on its seed, so runs of one and of several processes are compared on answers that depend on the prompt and on the place in its
group alone.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from moslim_core.distributed import is_first, processes
from moslim_core.policy import online_dpo, rollouts
from tests.core.policy.runs import train


def recorded(prompt_ids: list[list[int]]) -> list[list[int]]:
    seen: Counter[str] = Counter()
    answers = []
    for prompt in prompt_ids:
        key = str(prompt)
        rng = random.Random(f"{key}/{seen[key]}")
        seen[key] += 1
        answers.append([rng.randrange(3, 300) for _ in range(rng.randint(2, 6))])
    return answers


def main(folder: Path, base: Path, reward: Path, *ways: str) -> None:
    torch.set_num_threads(1)
    # Whatever way a trainer generates, it gets these.
    for module in (rollouts, online_dpo):
        module.generate_completions = lambda model, prompt_ids, config: recorded(prompt_ids)  # type: ignore[attr-defined]
    assert processes() == int(os.environ.get("WORLD_SIZE", "1"))
    for way in ways:
        optimiser, *more = way.split("+")
        chosen: dict[str, Any] = {"beta": 0.1} if optimiser == "online_dpo" else {}
        if "relabel" in more:
            chosen |= {"relabel": True, "prompts_per_step": 2}
        if "token" in more:
            chosen |= {"credit": "token"}
        home = folder / way
        home.mkdir(exist_ok=True)
        train(
            home, base, reward, "output" if is_first() else None, {"standardisation": "running"}, optimiser=optimiser, steps=3,
            processes=processes(), micro_batch=99, **chosen,
        )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
