"""One step of RLOO with one multi-head reward model on the policy's own base, against TRL's RLOO with a reward model per preference.

python benchmarks/policy_step.py [ROUNDS] [BASE]

Both have the same base (SmolLM2-135M unless BASE names another), LoRA rank, dtype, prompts, answers, tokens and KL weight, and
gradient checkpointing off. Reward models of the compared system are as large as the base, one output each. Systems take turns, each
in a process of its own; figures are medians over the steps after the first. Then the bytes of PPO (policy, reference, reward,
critic) against supervised fine-tuning.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tasks import environment

STEPS, PROMPTS, TARGETS, GROUP, TOKENS, RANK = 5, 2, 2, 4, 32, 16
QUESTIONS = [
    "How do I keep bread fresh?",
    "What makes a good walking shoe?",
    "Why is the sky blue in the day?",
    "How does a bicycle stay up?",
]


def settings_of(count: int, base: str, optimiser: str = "rloo") -> Any:
    from moslim_core.settings import Settings

    names = ["verbosity", "warmth", "simplicity", "humour", "candour", "care"][:count]
    return Settings.model_validate(
        {
            "preferences": [{"name": n, "levels": ["low", "middle", "high"]} for n in names],
            "model": {"base": base},
            "reward": {"backbone": base, "tuning": "lora"},
            "policy": {
                "optimiser": optimiser, "steps": STEPS, "prompts_per_step": PROMPTS, "targets_per_prompt": TARGETS, "group_size": GROUP,
                "micro_batch": PROMPTS * TARGETS * GROUP, "max_new_tokens": TOKENS, "beta": 0.05, "lora_rank": RANK, "none_fraction": 0.0,
                "held_out_fraction": 0.0, "checkpoint_every": 10**6,
            },
        }
    )  # fmt: skip


def reward_folder(settings: Any, cache: Path, folder: Path) -> None:
    """An untrained reward model as the reward stage saves one: what it says costs as much as if it were right."""
    from moslim_core import models
    from moslim_core.adapters import adapter_config
    from moslim_core.model_identity import identify
    from moslim_core.reward.model import ADAPTER, create

    model, tokenizer = create(models.resolve(settings.reward.backbone, cache), settings.preferences, None, 256)
    from peft import get_peft_model

    adapted: Any = get_peft_model(model.backbones[0], adapter_config(model.backbones[0], RANK, None, "FEATURE_EXTRACTION"))
    adapted.save_pretrained(folder / ADAPTER)
    model.backbones[0] = adapted.merge_and_unload()
    model.config.adapter_of = identify(settings.reward.backbone, cache).id.model_dump()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def bytes_of(trainer: Any, *modules: Any) -> dict[str, int]:
    """Bytes of distinct weights and of the optimiser's state."""
    tensors = {t.data_ptr(): t.nbytes for m in modules for t in [*m.parameters(), *m.buffers()]}
    state = trainer.optimizer.state.values() if trainer.optimizer is not None else ()
    return {
        "weights": sum(tensors.values()),
        "optimiser": sum(v.nbytes for values in state for v in values.values() if hasattr(v, "nbytes")),
    }


class Clock:
    def __init__(self) -> None:
        self.steps: list[float] = []
        self.rewards: list[float] = []

    def callback(self) -> Any:
        from transformers import TrainerCallback

        clock = self

        class Timer(TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                self.begun = time.perf_counter()
                clock.rewards.append(0.0)

            def on_step_end(self, *_: Any, **__: Any) -> None:
                clock.steps.append(time.perf_counter() - self.begun)

        return Timer()

    def timed(self, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            result = function(*args, **kwargs)
            self.rewards[-1] += time.perf_counter() - begun
            return result

        return call


def ours(count: int, base: str, cache: Path, folder: Path, optimiser: str) -> tuple[Clock, dict[str, int]]:
    from moslim_core import models
    from moslim_core.policy.conditioning import training_examples
    from moslim_core.policy.reward_function import PolicyReward
    from moslim_core.policy.setup import Setup
    from moslim_core.policy.shared_base import attach, load_heads
    from moslim_core.policy.training import OPTIMISERS
    from moslim_core.reward.mapping import RewardMapping

    settings = settings_of(count, base, optimiser)
    reward_folder(settings, cache, folder / "reward")
    model, tokenizer = models.load_chat_model(base, cache)
    scorer, backbone = load_heads(folder / "reward", str(model.device))
    reward = PolicyReward(scorer, RewardMapping(settings.preferences, settings.mapping))
    examples = training_examples([[{"role": "user", "content": q}] for q in QUESTIONS], settings.preferences, settings.policy, 0)
    clock = Clock()
    setup = Setup(settings.policy, model, tokenizer, reward, examples, folder / "out", 0, [clock.callback()])
    trainer: Any = OPTIMISERS[optimiser](setup)
    attach(backbone, trainer.model, folder / "reward")
    trainer._calculate_rewards = clock.timed(trainer._calculate_rewards)
    trainer.train()
    return clock, bytes_of(trainer, trainer.model, scorer.model.heads)


def trl(count: int, base: str, cache: Path, folder: Path) -> tuple[Clock, dict[str, int]]:
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RLOOConfig, RLOOTrainer

    from moslim_core import models
    from moslim_core.adapters import adapter_config
    from moslim_core.policy.conditioning import training_examples

    settings = settings_of(count, base)
    policy = settings.policy
    model, tokenizer = models.load_chat_model(base, cache)
    source = models.resolve(base, cache)
    judges, tokenizers = [], []
    for _ in range(count):
        judge = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1, dtype=model.dtype).to(model.device)
        judge.config.pad_token_id = tokenizer.pad_token_id
        judges.append(judge)
        tokenizers.append(AutoTokenizer.from_pretrained(source, pad_token=tokenizer.pad_token))
    examples = training_examples([[{"role": "user", "content": q}] for q in QUESTIONS], settings.preferences, policy, 0)
    clock = Clock()
    rollouts = PROMPTS * TARGETS * GROUP
    cpu = str(model.device) == "cpu"
    trainer: Any = RLOOTrainer(
        model=model, reward_funcs=judges, reward_processing_classes=tokenizers, processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": e["prompt"]} for e in examples]),
        peft_config=adapter_config(model, RANK, None, "CAUSAL_LM"),
        callbacks=[clock.callback()],
        args=RLOOConfig(
            output_dir=str(folder / "out"), max_steps=STEPS, per_device_train_batch_size=rollouts, num_generations=GROUP,
            max_completion_length=TOKENS, beta=policy.beta, gradient_checkpointing=False, learning_rate=policy.learning_rate,
            report_to=[], disable_tqdm=True, bf16=False, use_cpu=cpu, save_strategy="no", logging_steps=1, dataloader_pin_memory=not cpu,
        ),
    )  # fmt: skip
    trainer._calculate_rewards = clock.timed(trainer._calculate_rewards)
    trainer.train()
    return clock, bytes_of(trainer, trainer.model, *judges)


def sft(base: str, cache: Path, folder: Path) -> dict[str, int]:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from moslim_core import models
    from moslim_core.adapters import adapter_config

    model, tokenizer = models.load_chat_model(base, cache)
    rows = [{"prompt": [{"role": "user", "content": q}], "completion": [{"role": "assistant", "content": "So."}]} for q in QUESTIONS]
    trainer: Any = SFTTrainer(
        model=model, processing_class=tokenizer, train_dataset=Dataset.from_list(rows),
        peft_config=adapter_config(model, RANK, None, "CAUSAL_LM"),
        args=SFTConfig(
            output_dir=str(folder / "out"), max_steps=1, per_device_train_batch_size=4, gradient_checkpointing=False, report_to=[],
            disable_tqdm=True, bf16=False, use_cpu=str(model.device) == "cpu", save_strategy="no",
        ),
    )  # fmt: skip
    trainer.train()
    return bytes_of(trainer, trainer.model)


def child(system: str, count: int, base: str, cache: Path, result: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if system == "sft":
            found: dict[str, Any] = {"bytes": sft(base, cache, folder)}
        else:
            run = trl(count, base, cache, folder) if system == "trl" else ours(count, base, cache, folder, system)
            clock, size = run
            found = {"step": statistics.median(clock.steps[1:]), "reward": statistics.median(clock.rewards[1:]), "bytes": size}
    import torch

    found["resident"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found["device_peak"] = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    result.write_text(json.dumps(found))


def measure(system: str, count: int, base: str, cache: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        result = Path(name) / "result.json"
        command = [sys.executable, __file__, "child", system, str(count), base, str(cache), str(result)]
        done = subprocess.run(command, env={**os.environ, **environment.QUIET}, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return json.loads(result.read_text())


def total(run: dict[str, Any]) -> int:
    return sum(run["bytes"].values())


def main(rounds: int, base: str, cache: Path) -> None:
    print(f"{PROMPTS * TARGETS * GROUP} answers of {TOKENS} tokens a step, {base}, {rounds} rounds", flush=True)
    for count in (3, 6):
        turns = [(measure("rloo", count, base, cache), measure("trl", count, base, cache)) for _ in range(rounds)]
        mine, theirs = zip(*turns, strict=True)
        print(f"\n{count} preferences ({mine[0]['device']})")
        for key, unit, scale in (("step", "s", 1), ("reward", "s", 1), ("resident", "GB", 1e9), ("device_peak", "GB", 1e9)):
            a, b = (statistics.median(run[key] for run in runs) / scale for runs in (mine, theirs))
            if b:
                print(f"  {key}: {a:.3f} {unit} against {b:.3f} {unit}: {a / b:.2f}x")
        a, b = total(mine[0]) / 1e6, total(theirs[0]) / 1e6
        print(f"  weights and optimiser: {a:.0f} MB against {b:.0f} MB: {a / b:.2f}x", flush=True)
    whole, plain = (total(measure(system, 3, base, cache)) / 1e6 for system in ("ppo", "sft"))
    print(
        f"\nPPO (policy, reference, reward, critic): {whole:.0f} MB of weights and optimiser; supervised fine-tuning {plain:.0f} MB: "
        f"{whole / plain:.2f}x"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "child":
        child(sys.argv[2], int(sys.argv[3]), sys.argv[4], Path(sys.argv[5]), Path(sys.argv[6]))
    else:
        with tempfile.TemporaryDirectory() as name:
            main(int(sys.argv[1]) if len(sys.argv) > 1 else 2, sys.argv[2] if len(sys.argv) > 2 else "smollm2-135m", Path(name))
