"""One update, or a short run, on recorded answers: `python recorded_run.py FOLDER BASE REWARD`, alone or as one of several processes.

What a process samples depends on its seed, so runs are compared on answers that depend on the prompt and on the place in its group alone.
"""

from __future__ import annotations

import copy
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from moslim_core import models
from moslim_core.policy.conditioning import training_examples
from moslim_core.policy.engines import Drawn, Engine, transformers
from moslim_core.policy.learner import Learner
from moslim_core.policy.optimisers import optimiser_class, require_fit
from moslim_core.policy.rated_answers import RatedAnswers
from moslim_core.policy.reader import Reader
from moslim_core.policy.rewards import Rewards
from moslim_core.policy.rollouts import RolloutBatch, pair
from moslim_core.policy.settings import PolicySettings
from moslim_core.policy.steps import Steps, learn
from moslim_core.preferences import PreferenceSchema, prompt_tokens
from moslim_core.reward.mapping import RewardMapping
from moslim_core.reward.scorer import RewardScorer
from moslim_core.reward.settings import MappingSettings
from moslim_core.training.distributed import gather, is_first, join, processes, share
from tests.core.policy.runs import COMMON, OPTIMISERS, PREFERENCES, prompts, train, write_rows

END = 2
# By name, what is set beside the optimiser. Each is tried with every optimiser that it goes with.
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "relabel": {"relabel": True},
    "token": {"credit": "token"},
    "relabel+token": {"relabel": True, "credit": "token"},
    "epochs": {"epochs": 2},
    "kl in reward": {"kl": "reward"},
    "kl in loss": {"kl": "loss", "relabel": True},
    "some rated": {"rated_answers": 0.5},
    "all rated": {"rated_answers": 1.0},
    "imitation": {"imitation": 0.5, "rated_answers": 0.5, "relabel": True},
    "a pair each": {"targets_per_prompt": 1, "group_size": 2},
    "a pair each+token": {"targets_per_prompt": 1, "group_size": 2, "credit": "token"},
    "per preference": {"grpo": {"normalise": "per_preference"}},
}
# Whole runs: what is set besides.
RUNS: dict[str, dict[str, Any]] = {
    "rloo": {"relabel": True, "credit": "token"},
    "grpo": {"epochs": 2},
    "online_dpo": {"rated_answers": 0.5, "cross_talk_penalty": 2.0},
    "ppo": {"relabel": True, "ppo": {"critic_learning_rate": 0.01, "kl_target": 0.5}},
}


def settings(optimiser: str, way: str, **more: Any) -> PolicySettings:
    own = {"optimiser": optimiser, "beta": 0.1, "prompts_per_step": 2, "micro_batch": 99}
    return PolicySettings.model_validate(COMMON | own | WAYS[way] | more)


def fits(optimiser: str, way: str) -> bool:
    return optimiser_class(optimiser).unfit(settings(optimiser, way)) is None and (way != "per preference" or optimiser == "grpo")


EVERY = [(optimiser, way) for optimiser in OPTIMISERS for way in WAYS if fits(optimiser, way)]


def recorded(prompt_ids: Sequence[Sequence[int]]) -> list[list[int]]:
    """Two to six tokens; every second answer comes to its end."""
    seen: Counter[str] = Counter()
    answers = []
    for prompt in prompt_ids:
        key = str(list(prompt))
        rng = random.Random(f"{key}/{seen[key]}")
        seen[key] += 1
        answers.append([rng.randrange(3, 300) for _ in range(rng.randint(1, 5))] + [END if rng.random() < 0.5 else 3])
    return answers


class Recorded(Engine):
    def draw(self, prompts: Sequence[list[int]]) -> Drawn:
        return Drawn(recorded(prompts))


class Update(NamedTuple):
    """Of one step: its batch, figures by name, and the gradients by name of each of its updates."""

    batch: RolloutBatch
    figures: dict[str, float]
    gradients: list[dict[str, torch.Tensor]]


@cache
def loaded(base: Path) -> tuple[Any, Any]:
    return models.load_chat_model(str(base), base, "float32", "cpu")


def made_learner(base: Path, policy: PolicySettings, mapping: RewardMapping) -> tuple[Learner, Any, Any]:
    """(learner, tokenizer, optimiser); adapter and critic are away from 0, so that the reference is another policy."""
    kept, tokenizer = loaded(base)
    model = copy.deepcopy(kept)
    optimiser = optimiser_class(policy.optimiser)(policy, mapping)
    learner = Learner(model, policy, optimiser.critic)
    generator = torch.Generator().manual_seed(0)
    for parameter in learner.learning.values():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return learner, tokenizer, optimiser


def update(base: Path, scorer: RewardScorer, rows: Path, policy: PolicySettings) -> Update:
    """A step of training as training.py takes it, on recorded answers."""
    require_fit(policy)
    schema = PreferenceSchema.model_validate(PREFERENCES)
    mapping = RewardMapping(schema, MappingSettings(standardisation="batch"), gather)
    learner, tokenizer, optimiser = made_learner(base, policy, mapping)
    ends = models.end_tokens(learner.plain, tokenizer)
    rated = RatedAnswers(rows, tokenizer, ends, policy.max_new_tokens) if policy.rated_answers else None
    rewards = Rewards(scorer, mapping, policy, rows.parent, learner.device)
    steps = Steps(policy, Recorded(learner, policy, None), rewards, Reader(tokenizer, ends), rated)
    mine, targets = share(policy.prompts_per_step), policy.targets_per_prompt
    asked = training_examples(prompts(), schema, policy, 0)[mine.start * targets : mine.stop * targets]
    ids = prompt_tokens(tokenizer, [e.prompt for e in asked])
    gradients: list[dict[str, torch.Tensor]] = []

    updates: list[dict[str, float]] = []

    def keep(*_: Any) -> None:
        gradients.append({n: p.grad.clone() for n, p in learner.learning.items() if p.grad is not None})

    def followed(*given: Any, plain: Any = learner.update) -> Any:
        log_probs, updated = plain(*given)
        updates.append(updated)
        return log_probs, updated

    learner.optimisers[0].register_step_pre_hook(keep)
    learner.update = followed  # type: ignore[method-assign]
    rollouts, drawn_with = steps.draw(asked, ids, 0)
    pairs = pair(asked, rollouts, policy.relabel)
    judged, utilities, figures = steps.judge(asked, rollouts, pairs)
    batch, passed, more = steps.batch(learner, asked, ids, rollouts, drawn_with, pairs, judged, utilities, optimiser)
    learnt = learn(learner, optimiser, batch, passed, 1.0)
    more |= {name: value for name, value in learnt.items() if name not in updates[-1]}
    # Entropy is that of a sample, which depends on how rows are cut into passes.
    more |= {f"{name}/{n}": value for n, updated in enumerate(updates) for name, value in updated.items() if name != "entropy"}
    return Update(batch, figures | more, gradients)


def main(folder: Path, base: Path, reward: Path) -> None:
    """Everything with the optimisers, each process by its share; the first one writes what came of it."""
    torch.set_num_threads(1)
    join("cpu")
    write_rows(folder)
    scorer = RewardScorer.load(reward)
    for optimiser, way in EVERY:
        found = update(base, scorer, folder / "train.jsonl", settings(optimiser, way, processes=processes()))
        if is_first():
            home = folder / f"{optimiser}, {way}"
            home.mkdir()
            (home / "figures.json").write_text(json.dumps(found.figures))
            save_file({f"{n}/{name}": g for n, each in enumerate(found.gradients) for name, g in each.items()}, home / "gradients")
    transformers.generate_completions = lambda model, prompt_ids, config, together: recorded(prompt_ids)  # type: ignore[assignment]
    for optimiser, more in RUNS.items():
        run(folder / optimiser, base, reward, optimiser, **more)


def run(home: Path, base: Path, reward: Path, optimiser: str, **more: Any) -> None:
    """A whole training of two steps."""
    home.mkdir(exist_ok=True)
    common = {"steps": 2, "prompts_per_step": 2, "targets_per_prompt": 2, "micro_batch": 99, "beta": 0.1, "processes": processes()}
    output = "output" if is_first() else None
    train(home, base, reward, output, {"standardisation": "running"}, optimiser=optimiser, **(common | more))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
    # Its threads must not outlive the interpreter, which now and then ends such a process by SIGABRT.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
