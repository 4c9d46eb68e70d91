"""Controllable Preference Optimization: supervised learning under levels, then DPO on pairs of answers to them (Guo et al. 2024).

CPSFT learns the rated answers under the levels that they were rated with. CDPO draws answers under requests, and prefers the one with
the higher R = sum w_i g_i, where g_i = -lambda |level_i - target_i| for a preference that is asked for, and its level otherwise. Ours:
levels are the reward model's expected ones, in units of the preference's range, so that preferences with many levels weigh no more;
"its level" is the score, which knows which end is the better one; lambda = 1; requests stand in this project's instruction, which is
read back as it was written; what CDPO draws is the rollout budget, and it learns from all pairs once; an answer loses the policy's
penalties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from trl import DPOConfig, DPOTrainer

from moslim_core.baselines.experts import ExpertProgress
from moslim_core.baselines.method import Array, ByInstruction, Cost, timed, timed_seconds
from moslim_core.errors import UserError
from moslim_core.evaluation.system import System
from moslim_core.policy.conditioning import Example, training_examples
from moslim_core.policy.warm_start import Learner, conditioned_sft, fine_tune
from moslim_core.preferences import PreferenceSchema, Targets, answered_tokens
from moslim_core.registry import baseline
from moslim_core.reward.metrics import expected_level
from moslim_core.settings import Settings
from moslim_core.settings_section import changed
from moslim_core.training.distributed import gather, share


def rewards(
    probabilities: Mapping[str, Array], targets: Sequence[Targets], schema: PreferenceSchema, weights: Mapping[str, float]
) -> Array:
    """R (n,) of class probabilities {preference: (n, K)} under n requests; a weight that is not given is 1."""
    total = np.zeros(len(targets))
    for preference in schema.preferences:
        levels = expected_level(probabilities[preference.name])
        for row, (level, request) in enumerate(zip(levels, targets, strict=True)):
            goal = -abs(level - request[preference.name]) / (preference.k - 1) if preference.name in request else preference.score(level)
            total[row] += weights.get(preference.name, 1.0) * goal
    return total


def pairs(examples: Sequence[Example], answers: Sequence[str], reward_values: Array) -> list[dict[str, Any]]:
    """Of the equally many answers to each example, in their order, the best and the worst by rewards (n,); none where all are equal."""
    size = len(answers) // len(examples)
    made = []
    for number, example in enumerate(examples):
        own = reward_values[number * size : (number + 1) * size]
        best, worst = int(own.argmax()), int(own.argmin())
        if own[best] > own[worst]:
            chosen, rejected = ([{"role": "assistant", "content": answers[number * size + i]}] for i in (best, worst))
            made.append({"prompt": example.prompt, "chosen": chosen, "rejected": rejected})
    return made


def preferred(tokenizer: Any, row: dict[str, Any]) -> dict[str, Any]:
    """A row of `pairs` as token ids: both answers behind what their conversations have in common with the prompt."""
    chosen, rejected = (answered_tokens(tokenizer, row["prompt"], row[side][0]["content"]) for side in ("chosen", "rejected"))
    prompt_length = min(chosen[1], rejected[1])
    return {"prompt_ids": chosen[0][:prompt_length], "chosen_ids": chosen[0][prompt_length:], "rejected_ids": rejected[0][prompt_length:]}


@baseline("cpo")
class CPO(ByInstruction):
    rows = ("cpo",)
    supervised = True

    @classmethod
    def kept(cls, settings: Settings) -> int:
        return 2

    @cached_property
    def examples(self) -> list[Example]:
        """The requests that this project's policy would be trained on."""
        context = self.context
        settings = context.settings
        return training_examples(context.training_prompts, settings.preferences, settings.policy, settings.seed)

    def _folder(self, name: str) -> Path:
        return self.context.work / name

    def _progress(self, name: str) -> ExpertProgress:
        return ExpertProgress(name, self.context.work / "logs" / f"{name}.jsonl", self.context.progress)

    def train(self) -> None:
        context, checkpoints = self.context, self.context.work / "checkpoints"
        settings, rated = context.settings, context.rows / "train.jsonl"
        start, final = self._folder("cpsft"), self._folder("cdpo")
        with timed(context.work, "update"):
            conditioned_sft(settings, rated, context.cache, checkpoints / "cpsft", start, self._progress("cpsft"))
        if not final.is_dir():
            data, learner = self._pairs(start), Learner(DPOTrainer, DPOConfig, preferred, takes_tokens=False)
            # What the budget drew is all used, once.
            once = changed(settings, policy=changed(settings.policy, sft=changed(settings.policy.sft, epochs=1.0)))
            with timed(context.work, "update"):
                fine_tune(str(start), data, once, context.cache, checkpoints / "cdpo", final, self._progress("cdpo"), learner)

    def _pairs(self, base: Path) -> list[dict[str, Any]]:
        """Raises UserError where no two answers to a request differ."""
        context = self.context
        settings, size = context.settings, context.settings.policy.group_size
        each = [example for example in self.examples for _ in range(size)]
        with timed(context.work, "rollout"):
            drawn = context.draw(*context.chat_model(base), [e.prompt for e in each], "drawn")
        scorer, own = context.scorer, share(len(each))
        with timed(context.work, "reward"):
            probabilities = scorer([e.question for e in each[own]], [answer.text for answer in drawn[own]])
            targets = [e.targets for e in each[own]]
            lost, _ = context.penalties([e.question for e in each[own]], [a.text for a in drawn[own]], [a.truncated for a in drawn[own]])
            reward_values = gather(rewards(probabilities, targets, scorer.schema, settings.mapping.weights) - lost)
        made = pairs(self.examples, [answer.text for answer in drawn], reward_values)
        if not made:
            raise UserError("cpo: no two answers to a request differ in their reward.\nRaise policy.steps or policy.temperature.")
        return made

    @cached_property
    def system(self) -> System:
        return self.context.system(self.rows[0], *self.context.chat_model(self._folder("cdpo")))

    def cost(self, row: str) -> Cost:
        return Cost(
            policies=1,
            rollouts=len(self.examples) * self.context.settings.policy.group_size,
            resident=1,
            seconds=timed_seconds(self.context.work),
        )
