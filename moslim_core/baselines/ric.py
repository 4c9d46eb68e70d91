"""Rewards-in-Context: rewards are written in the prompt, and supervised learning does the rest (Yang et al. 2024).

Offline, the rated answers under their own z-scored rewards; then one online round: answers for rewards along the front, scored, those
selected that are among the best 30 % in some reward, as are rated ones, and learnt under the rewards that they obtained. An operating
point becomes wanted rewards by the published map. Ours: heads' expected scores are the rewards, a reward goes by its preference's
name, and what the round draws is the rollout budget.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from moslim_core.baselines.experts import ExpertProgress
from moslim_core.baselines.method import Array, Cost, Method, Reworded, at_point, rollouts, timed, timed_seconds
from moslim_core.data.rows import load_rows, plain_text
from moslim_core.policy.warm_start import fine_tune
from moslim_core.preferences import Message, PreferenceSchema, Targets, condition
from moslim_core.registry import baseline
from moslim_core.reward.metrics import expected_scores
from moslim_core.reward.scorer import RewardScorer
from moslim_core.settings import Settings
from moslim_core.training.distributed import gather, share

# Of the published code: how good in some reward an answer must be to be learnt in the online round.
QUANTILE = 0.7
_STATED = re.compile(r"<(\w+)_score> (-?\d+\.\d)")


def state(messages: Sequence[Message], rewards: Sequence[float], names: Sequence[str]) -> list[Message]:
    """The conversation with rewards, to one decimal, at the end of its last turn, where the published template has them."""
    stated = " ".join(f"<{name}_score> {reward + 0.0:.1f}" for name, reward in zip(names, np.round(rewards, 1).tolist(), strict=True))
    return [*messages[:-1], {**messages[-1], "content": f"{messages[-1]['content']} {stated}"}]


def stated(text: str, names: Sequence[str]) -> list[float]:
    """The rewards at the end of a turn that `state` wrote; what a user typed before them does not count."""
    matches = _STATED.findall(text)[-len(names) :]
    if [name for name, _ in matches] != list(names):
        raise ValueError(f"no rewards of {', '.join(names)} stand at the end of {text!r}")
    return [float(reward) for _, reward in matches]


def wanted(weights: Array, low: Array, high: Array) -> Array:
    """(m,) rewards for (m,) weights: low + min(m w_i, 1) (high - low), and `high` of the largest weight (published, L-infinity)."""
    share = np.minimum(len(weights) * weights, 1.0)
    share[weights.argmax()] = 1.0
    return low + share * (high - low)


def along_the_front(count: int, low: Array, high: Array, rng: np.random.Generator) -> Array:
    """(count, m) rewards to ask for: of m uniform shares of the range the lowest is kept, the others are 1 (published)."""
    shares = rng.random((count, len(low)))
    columns = shares.argmin(axis=1)
    rows = np.arange(count)
    lowest = shares[rows, columns].copy()
    shares[:] = 1.0
    shares[rows, columns] = lowest
    return low + shares * (high - low)


def best(rewards: Array) -> Array:
    """(n,) true where some reward of (n, m) is at or above its 0.7 quantile."""
    return (rewards >= np.quantile(rewards, QUANTILE, axis=0)).any(axis=1)


class Rewards:
    """z-scored expected scores of the heads, (n, m), by mean and spread of the rated answers."""

    def __init__(self, scorer: RewardScorer, schema: PreferenceSchema, questions: Sequence[str], answers: Sequence[str]) -> None:
        self.scorer, self.schema = scorer, schema
        raw = self._scores(questions, answers)
        self.mean, self.spread = raw.mean(axis=0), np.maximum(raw.std(axis=0), 1e-3)
        self.rated = (raw - self.mean) / self.spread

    def __call__(self, questions: Sequence[str], answers: Sequence[str]) -> Array:
        return (self._scores(questions, answers) - self.mean) / self.spread

    def _scores(self, questions: Sequence[str], answers: Sequence[str]) -> Array:
        return expected_scores(self.scorer(questions, answers), self.schema)


@baseline("ric")
class RiC(Method):
    rows = ("ric",)
    supervised = True
    free_points = True

    @classmethod
    def kept(cls, settings: Settings) -> int:
        return 2

    @cached_property
    def rated(self) -> tuple[list[list[Message]], list[str]]:
        """(prompts, answers) of the rated rows."""
        rows = load_rows(self.context.rows / "train.jsonl")
        return [row.prompt for row in rows], [row.response for row in rows]

    @cached_property
    def rewards(self) -> Rewards:
        """z-scored by the rated answers."""
        prompts, answers = self.rated
        return Rewards(self.context.scorer, self.context.schema, [plain_text(p) for p in prompts], answers)

    @property
    def range(self) -> tuple[Array, Array]:
        """Lowest and highest rewards of the rated answers."""
        return self.rewards.rated.min(axis=0), self.rewards.rated.max(axis=0)

    @property
    def budget(self) -> int:
        """Answers that the online round may draw."""
        policy = self.context.settings.policy
        return rollouts(policy, policy.steps)

    def train(self) -> None:
        prompts, answers = self.rated
        work = self.context.work
        offline, online = work / "offline", work / "online"
        if not offline.is_dir():
            self._learn(self.context.settings.model.base, prompts, answers, self.rewards.rated, offline)
        if not online.is_dir():
            with timed(work, "rollout"):
                new_prompts, drawn = self._round(offline)
            with timed(work, "reward"):
                own = share(len(new_prompts))
                obtained = gather(self.rewards([plain_text(p) for p in new_prompts[own]], drawn[own]))
            every = [*prompts, *new_prompts], [*answers, *drawn], np.concatenate([self.rewards.rated, obtained])
            selected = np.flatnonzero(np.concatenate([best(self.rewards.rated), best(obtained)])).tolist()
            chosen = [every[0][i] for i in selected], [every[1][i] for i in selected], every[2][selected]
            self._learn(str(offline), *chosen, online)

    def _learn(self, base: str, prompts: Sequence[list[Message]], answers: Sequence[str], rewards: Array, output: Path) -> None:
        names, context = self.context.schema.names, self.context
        data: list[dict[str, Any]] = [
            {"prompt": state(self._read(p), r, names), "completion": [{"role": "assistant", "content": a}]}
            for p, a, r in zip(prompts, answers, rewards, strict=True)
        ]
        checkpoints = context.work / "checkpoints" / output.name
        progress = ExpertProgress(output.name, context.work / "logs" / f"{output.name}.jsonl", context.progress)
        with timed(context.work, "update"):
            fine_tune(base, data, context.settings, context.cache, checkpoints, output, progress)

    def _read(self, prompt: Sequence[Message]) -> list[Message]:
        """A prompt as it is read in an evaluation, before rewards are stated."""
        return condition(prompt, Targets(), self.context.settings.preferences, self.context.settings.policy.placement)

    def _round(self, base: Path) -> tuple[list[list[Message]], list[str]]:
        """(prompts, answers): as many as the budget has, for rewards along the front."""
        context = self.context
        rng = np.random.default_rng(context.settings.seed)
        prompts = context.training_prompts
        sampled = [prompts[i] for i in np.resize(rng.permutation(len(prompts)), self.budget)]
        goals = along_the_front(self.budget, *self.range, rng)
        conversations = [state(self._read(p), g, context.schema.names) for p, g in zip(sampled, goals, strict=True)]
        return sampled, [answer.text for answer in context.draw(*context.chat_model(base), conversations, "round")]

    def at(self, row: str, weights: Array) -> Reworded:
        name = at_point(row, weights)
        wording = partial(state, rewards=wanted(weights, *self.range).tolist(), names=self.context.schema.names)
        return Reworded(self.context.system(name, *self.context.chat_model(self.context.work / "online")), wording)

    def cost(self, row: str) -> Cost:
        return Cost(policies=1, rollouts=self.budget, resident=1, seconds=timed_seconds(self.context.work))
