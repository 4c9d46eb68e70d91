"""What a compared system is: it trains once, and then answers at any operating point. (ours)

The budget is the answers that the settings' policy training compares, drawn or rated, in total: a method that trains k policies gives
each of them the k-th part of the steps (rounded up), and one that trains none may spend it on answering.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import BaseModel

from moslim_core import models
from moslim_core.data.rows import load_prompts, plain_text
from moslim_core.errors import UserError
from moslim_core.evaluation.answers import judged
from moslim_core.evaluation.controllability import Obtained
from moslim_core.evaluation.fronts import levels_of, simplex_grid
from moslim_core.evaluation.judges import Judge
from moslim_core.evaluation.operating_points import steered
from moslim_core.evaluation.system import System
from moslim_core.judging.endpoint import Endpoint
from moslim_core.policy.artifact import load_policy
from moslim_core.policy.generation import Answer, Sampling, generate
from moslim_core.policy.penalties import Penalties
from moslim_core.policy.settings import PolicySettings
from moslim_core.preferences import Message, PreferenceSchema, Targets
from moslim_core.reward.metrics import expected_level
from moslim_core.reward.scorer import RewardScorer
from moslim_core.settings import Settings
from moslim_core.training import distributed
from moslim_core.training.progress import Progress

Array = np.ndarray
# Of a training; reinforcement learning logs the seconds of each per step.
PHASES = ("rollout", "reward", "update")


class Cost(BaseModel):
    """What one row's answers took, and what one more operating point would take.

    Counts: `reward_models` and `policies` trained; `rollouts`, answers of training, drawn or rated; `resident`, models and adapters, a
    base and its adapter being two, that must be at hand to answer at any of the operating points; `point_rollouts`, training answers for
    one more point; `drawn`, answers drawn for each one given. `seconds` of training by phase.
    """

    reward_models: int = 1
    policies: int
    rollouts: int
    resident: int
    point_rollouts: int = 0
    drawn: int = 1
    seconds: dict[str, float] = {}


class Answering(Protocol):
    """One answer per prompt, in their order; None where the model's context has no room. `what` names this use, for the file of answers."""

    def answers(self, what: str, conversations: Sequence[Sequence[Message]], sampling: Sampling) -> list[Answer | None]:
        """One answer per conversation, in order; None where the context has no room. `what` names this use in the store of answers."""


@dataclass(frozen=True)
class Asked:
    """A system that reads every prompt with the instruction for `targets`, worded as for every other system; for none, as it is."""

    system: System
    targets: Targets

    def answers(self, what: str, conversations: Sequence[Sequence[Message]], sampling: Sampling) -> list[Answer | None]:
        return self.system.answers(what, [self.system.conditioned(c, self.targets, n) for n, c in enumerate(conversations)], sampling)


@dataclass(frozen=True)
class Reworded:
    """A system that reads every prompt, without an instruction, as `wording` has it."""

    system: System
    wording: Callable[[Sequence[Message]], list[Message]]

    def answers(self, what: str, conversations: Sequence[Sequence[Message]], sampling: Sampling) -> list[Answer | None]:
        clean = [self.system.conditioned(c, Targets(), place) for place, c in enumerate(conversations)]
        return self.system.answers(what, [self.wording(c) for c in clean], sampling)


@dataclass(frozen=True)
class Context:
    """All that a method may use. `rows`, `reward_model`, `policy` (this project's, for its own row alone): folders of earlier stages;
    `work`: what is there is not done again; `reference`: the front's reference point, None for the starting model itself; `endpoint`: the
    language model that judges benchmarks, where there is one."""

    settings: Settings
    rows: Path
    reward_model: Path
    policy: Path | None
    judge: Judge
    reference: dict[str, float | None] | None
    cache: Path
    work: Path
    output: Path
    progress: Progress
    endpoint: Endpoint | None = None

    @cached_property
    def schema(self) -> PreferenceSchema:
        """The preferences that weights are about. Raises UserError where there is nothing to trade."""
        schema = steered(self.settings.preferences)
        if schema is None:
            raise UserError("systems are compared on what they trade, but fewer than two preferences can be steered.\nAdd one.")
        return schema

    @cached_property
    def weights(self) -> Array:
        """The operating points: (n, m) weights of the m steered preferences."""
        return simplex_grid(len(self.schema), max(self.settings.evaluation.operating_points, len(self.schema) + 1))

    @cached_property
    def prompts(self) -> list[list[Message]]:
        """Evaluation prompts."""
        return load_prompts(self.rows / "prompts.evaluation.jsonl")

    @cached_property
    def training_prompts(self) -> list[list[Message]]:
        """Prompts that may be trained on."""
        return load_prompts(self.rows / "prompts.train.jsonl")

    @cached_property
    def known_prompts(self) -> list[list[Message]]:
        """As many of the prompts that may be trained on, to find settings of a method with."""
        known = self.training_prompts
        return random.Random(self.settings.seed).sample(known, min(len(known), len(self.prompts)))

    @cached_property
    def scorer(self) -> RewardScorer:
        """The training reward model."""
        return RewardScorer.load(self.reward_model, models.pick_device(self.settings.model.device))

    @cached_property
    def penalties(self) -> Penalties:
        """What answers lose in training, whoever draws them."""
        return Penalties(self.settings.policy, self.cache, models.pick_device(self.settings.model.device))

    @property
    def sampling(self) -> Sampling:
        """How answers under evaluation are drawn."""
        chosen = self.settings.evaluation
        return Sampling(self.settings.policy.max_new_tokens, chosen.temperature, chosen.batch_size)

    def judged_answers(self, who: Answering, what: str, targets: Targets) -> list[Obtained]:
        """One judged answer per evaluation prompt, to a request for `targets`. Raises UserError where a prompt leaves no room for one."""
        answers = who.answers(what, self.prompts, self.sampling)
        return judged(answers, [(number, targets) for number in range(len(answers))], self.prompts, self.judge)

    def typical_levels(self, who: Answering, what: str) -> dict[str, float]:
        """{preference: mean expected level} of answers to training prompts, as the reward model sees them."""
        return self.expected_levels(who.answers(what, self.known_prompts, self.sampling))

    def expected_levels(self, answers: Sequence[Answer | None]) -> dict[str, float]:
        """As `typical_levels`, of one answer to each of `known_prompts`."""
        given = [(p, a) for p, a in zip(self.known_prompts, answers, strict=True) if a is not None]
        probabilities = self.scorer([plain_text(p) for p, _ in given], [a.text for _, a in given])
        return {name: float(expected_level(p).mean()) for name, p in probabilities.items()}

    def draw(self, model: Any, tokenizer: Any, conversations: Sequence[Sequence[Message]], what: str) -> list[Answer]:
        """Answers to train on, one per conversation, in their order; each process draws its share. `what` names them in `work`."""
        own, policy = distributed.share(len(conversations)), self.settings.policy
        # Processes that draw under one seed would draw alike.
        seed, file = self.settings.seed + own.start, self.work / f"{what}.{own.start}.jsonl"
        drawn = generate(model, tokenizer, conversations[own], Sampling(policy.max_new_tokens, policy.temperature), seed, answers_file=file)
        return [answer for part in distributed.parts(drawn) for answer in part]

    def chat_model(self, source: str | Path) -> tuple[Any, Any]:
        """(model, tokenizer): the settings' base, or what a method has trained in full."""
        chosen = self.settings.model
        return models.load_chat_model(str(source), self.cache, chosen.dtype, chosen.device)

    def system(self, name: str, model: Any, tokenizer: Any) -> System:
        """A model under evaluation; `name` is its own, as answers are stored under it."""
        settings = self.settings
        folder = self.work / "answers" / name
        return System(name, model, tokenizer, settings.preferences, settings.policy.placement, settings.seed, folder, self.progress)

    def trained(self, name: str, folder: Path) -> System:
        """A trained policy under evaluation."""
        chosen = self.settings.model
        model, tokenizer, _ = load_policy(folder, self.cache, chosen.dtype, chosen.device)
        return self.system(name, model, tokenizer)


class Method(ABC):
    """A compared system. `rows`: names of the rows that it gives the comparison, one training serving all of them.

    `trained`: it has learning rates. `supervised`: it learns from the rated answers too, by policy.sft. `mapped`: it learns from the
    profile's mapping; other methods take no more of it than its weights and aggregation, or bring a trained policy. `free_points`: one
    more operating point costs it no training.
    """

    rows: tuple[str, ...]
    trained = True
    free_points = False
    supervised = False
    mapped = False

    def __init__(self, context: Context) -> None:
        self.context = context

    def train(self) -> None:  # noqa: B027 - some have nothing to train
        """Do what has to be done once, in `context.work`; resumes from what is there. All processes of the stage do it together."""

    @classmethod
    def require_fit(cls, settings: Settings) -> None:
        """Raises UserError where its training can't be made of the settings; most train as these say."""
        return

    @classmethod
    def training(cls, policy: PolicySettings) -> PolicySettings:
        """What its trainings come to together, for an estimate of their cost."""
        return policy

    @classmethod
    def kept(cls, settings: Settings) -> int:
        """How many adapters its training leaves, or whole models where it is supervised, for an estimate of their size."""
        return 1

    @abstractmethod
    def at(self, row: str, weights: Array) -> Answering:
        """Who answers at an operating point, (m,) weights that sum to 1."""

    @abstractmethod
    def cost(self, row: str) -> Cost:
        """After training."""


class LevelBased(Method):
    """A method that is steered by levels, and to an operating point through the one map from weights to levels."""

    @abstractmethod
    def under(self, targets: Targets) -> Answering:
        """Who answers when levels are requested."""

    def at(self, row: str, weights: Array) -> Answering:
        return self.under(levels_of(weights.tolist(), self.context.schema))


class ByInstruction(LevelBased):
    """A method with one system that reads levels as instructions."""

    @property
    @abstractmethod
    def system(self) -> System:
        """Who reads the instructions."""

    def under(self, targets: Targets) -> Answering:
        return Asked(self.system, targets)


def at_point(row: str, weights: Array) -> str:
    """What a row's system is called at an operating point."""
    return "-".join([row, *(f"{w:.3f}" for w in weights)])


def rollouts(policy: PolicySettings, steps: int) -> int:
    """Answers that so many steps compare, drawn or rated."""
    return steps * policy.prompts_per_step * policy.targets_per_prompt * policy.group_size


@contextlib.contextmanager
def timed(work: Path, phase: str) -> Iterator[None]:
    """What happens inside adds to the phase's seconds, which are kept in `work`; a failure counts, an attempt that was killed does not."""
    started, file = time.monotonic(), work / f"{phase}.seconds"
    try:
        yield
    finally:
        if distributed.is_first():
            before = float(file.read_text()) if file.is_file() else 0.0
            file.write_text(str(before + time.monotonic() - started))


def timed_seconds(work: Path) -> dict[str, float]:
    """By phase, 0 where nothing was timed."""
    files = {phase: work / f"{phase}.seconds" for phase in PHASES}
    return {phase: float(file.read_text()) if file.is_file() else 0.0 for phase, file in files.items()}


def phase_seconds(logs: Sequence[Path]) -> dict[str, float]:
    """Seconds of rollout, reward and update in training logs (Progress events); a step that was done twice counts as done last."""
    totals = dict.fromkeys(PHASES, 0.0)
    for log in logs:
        events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        steps = {e["step"]: e["values"] for e in events if e["event"] == "metrics"}
        for phase in PHASES:
            totals[phase] += sum(values.get(f"seconds/{phase}", 0.0) for values in steps.values())
    return totals
