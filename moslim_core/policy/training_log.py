"""What people see of a training: figures per step under this project's names (docs/method.md section 4), seconds per phase, progress."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from moslim_core.training.distributed import agree
from moslim_core.training.progress import Progress

# Of a training's history what a policy's model card shows.
SHOWN = "expected_level/"


class TrainingLog:
    """`spent`: seconds, and `history`: figures, of what an earlier process did of the same training."""

    def __init__(self, progress: Progress, steps: int, spent: float = 0.0, history: list[dict[str, float]] | None = None) -> None:
        self.progress, self.steps = progress, steps
        self.begun = time.monotonic() - spent
        self.history = history or []
        self.phases: dict[str, float] = {}

    def seconds(self) -> float:
        """Of training so far, those before a resumption included."""
        return time.monotonic() - self.begun

    def is_over(self, minutes: float | None) -> bool:
        """Whether so many are over, in all processes alike."""
        return minutes is not None and agree(self.seconds() > 60 * minutes)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the seconds of what happens inside to a phase of the step."""
        started = time.monotonic()
        yield
        self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - started

    def step(self, step: int, figures: dict[str, float], answers: int) -> None:
        """Record a step that drew so many `answers`. Raises RuntimeError where a figure is not finite."""
        broken = {name: value for name, value in figures.items() if not math.isfinite(value)}
        if broken:
            raise RuntimeError(f"step {step} gave what is not finite: {broken}.\nLower policy.learning_rate; the last checkpoint is kept.")
        seconds = {f"seconds/{name}": value for name, value in self.phases.items()}
        seconds["seconds/step"] = sum(self.phases.values())
        self.phases = {}
        if "completion_tokens" in figures:
            figures |= {"kl_sequence": figures["kl"] * figures["completion_tokens"]} if "kl" in figures else {}
            figures["tokens_per_second"] = figures["completion_tokens"] * answers / max(seconds["seconds/step"], 1e-9)
        self.progress.metrics(figures | seconds, step)
        self.history.append({name: value for name, value in figures.items() if name.startswith(SHOWN)})
        self.progress.update("training the policy", step, self.steps)

    def state(self) -> dict[str, Any]:
        """JSON data for a checkpoint."""
        return {"seconds": self.seconds(), "history": self.history}
