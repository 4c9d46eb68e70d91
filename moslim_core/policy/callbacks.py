"""What goes along with every optimiser: the time limit, and metrics under this project's names."""

from __future__ import annotations

import math
import time
from typing import Any

from transformers import TrainerCallback

from moslim_core.distributed import agree
from moslim_core.policy.reward_function import PolicyReward
from moslim_core.progress import Progress

# TRL's metric names -> this project's (docs/method.md section 4); the rest of TRL's are not recorded.
METRICS = {
    "reward": "reward",
    "reward_std": "reward_std",
    "kl": "kl",
    "entropy": "entropy",
    "completions/mean_length": "completion_tokens",
    "completions/clipped_ratio": "truncated",
    "frac_reward_zero_std": "zero_variance",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "own_weight": "own_weight",
    "credit_noise": "credit_noise",
    "value_loss": "value_loss",
    "explained_variance": "explained_variance",
    "kl_coefficient": "kl_coefficient",
}
OURS = ("utility/", "judged/", "standardised/", "zero_variance/", "expected_level/")


class TimeLimit(TrainerCallback):
    """Ends training with the first batch of answers done with later than `minutes` after its start; what a kill interrupted counts."""

    def __init__(self, minutes: float | None, epochs: int = 1, spent: float = 0.0) -> None:
        self.minutes, self.epochs, self.begun = minutes, epochs, time.monotonic() - spent

    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.minutes is not None and state.global_step % self.epochs == 0 and agree(self.seconds() > 60 * self.minutes):
            control.should_training_stop = True


class Report(TrainerCallback):
    """Metrics under this project's names, seconds per phase, a stop on NaN. `rollouts`: answers per step."""

    def __init__(self, progress: Progress, reward: PolicyReward, rollouts: int) -> None:
        self.progress, self.reward, self.rollouts = progress, reward, rollouts
        self.begun = self.ended = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress.update("training the policy", state.global_step, state.max_steps)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.begun = time.monotonic()
        self.reward.seconds = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ended = time.monotonic()
        self.progress.update("training the policy", state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        values = {ours: logs[theirs] for theirs, ours in METRICS.items() if logs.get(theirs) is not None}
        if not all(math.isfinite(v) for v in values.values()):
            raise RuntimeError(f"step {state.global_step} gave a loss or reward that is not finite: {values}")
        values |= {k: v for k, v in logs.items() if k.startswith(OURS) and v is not None}
        # An update that learns again from answers at hand has no rollout.
        drew = self.reward.seconds > 0
        values["seconds/step"] = self.ended - self.begun
        # Up to the first reward call: answers, and their log-probabilities under policy and reference.
        values["seconds/rollout"] = self.reward.started - self.begun if drew else 0.0
        values["seconds/reward"] = self.reward.seconds
        values["seconds/update"] = values["seconds/step"] - values["seconds/rollout"] - values["seconds/reward"]
        if drew:
            if "kl" in values:
                values["kl_sequence"] = values["kl"] * values["completion_tokens"]
            values["tokens_per_second"] = values["completion_tokens"] * self.rollouts / max(values["seconds/step"], 1e-9)
        self.progress.metrics(values, state.global_step)
