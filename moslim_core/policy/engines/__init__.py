"""Engines draw the answers that a policy learns from. One is a module here. (ours)

`policy.engine=auto` takes vLLM where a server is named, else the first of `AUTO` for the device that can serve the model. Where one that
was named can't, the plain one takes its place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from moslim_core.policy.learner import Learner
from moslim_core.policy.settings import PolicySettings
from moslim_core.registry import engine

PLAIN = "transformers"
# By device, the fastest first (benchmarks/engines.py).
AUTO = {"cuda": ("compiled", PLAIN)}


class Drawn(NamedTuple):
    """New token ids of each answer, up to and with its end token; and the log-probabilities (a list per answer) that the engine drew them
    with, where these are not the policy's own."""

    answers: list[list[int]]
    log_probs: list[list[float]] | None = None


class Engine(ABC):
    """Draws from a policy as it is now, one answer per prompt, sampled as a generation configuration says."""

    def __init__(self, learner: Learner, policy: PolicySettings, config: Any) -> None:
        self.learner, self.policy, self.config = learner, policy, config

    @classmethod
    def unable(cls, learner: Learner, policy: PolicySettings) -> str | None:
        """Why it can't draw from this policy; None where it can."""
        return None

    @abstractmethod
    def draw(self, prompts: Sequence[list[int]]) -> Drawn:
        """Answers to n prompts (token ids), one each, in their order. Raises UserError where a server that draws fails."""


def engine_class(name: str) -> type[Engine]:
    """The engine of that name. Raises UserError where there is none."""
    return engine[name]


def pick(learner: Learner, policy: PolicySettings, config: Any) -> tuple[Engine, str | None]:
    """(the engine that the settings ask for, or the plain one; why it is not the one that was named)."""
    named: tuple[str, ...] = (policy.engine,)
    if learner.sharded:
        # Another engine that is named is refused before anything starts.
        named = (PLAIN,)
    elif policy.engine == "auto":
        named = ("vllm",) if policy.vllm_url else AUTO.get(learner.device.type, (PLAIN,))
    reasons: list[str] = []
    for name in (*named, PLAIN):
        reason = engine_class(name).unable(learner, policy)
        if reason is None:
            said = f"answers are drawn by {name}, as {reasons[0]}" if reasons and policy.engine != "auto" else None
            return engine_class(name)(learner, policy, config), said
        reasons.append(f"{name} can't: {reason}")
    raise AssertionError("the plain engine can always draw")
