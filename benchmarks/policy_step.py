"""One step of RLOO with one multi-head reward model on the policy's own base, against TRL's RLOO with a reward model per preference.

python benchmarks/policy_step.py [--rounds 2] [--base MODEL] [--prompts 2] [--tokens 32] [--against CHECKOUT]

Both have the same base (SmolLM2-135M unless --base names another), LoRA rank, dtype, prompts, answers, tokens and KL weight, and
gradient checkpointing off; a step draws 8 answers a prompt. Reward models of the compared system are as large as the base, one output
each. With --against, another checkout of this project runs the same settings, too. Systems take turns, each in a process of its own;
figures are medians over the rounds of medians over the steps between the first and the last. The last step is not timed: in it the
operations of the update are counted, to say which share they are of what products of matrices reach here, and what is held in memory
after it: weights, the optimiser's state, and what drawing keeps.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
STEPS, TARGETS, GROUP, RANK = 5, 2, 4, 16
QUESTIONS = [
    "How do I keep bread fresh?",
    "What makes a good walking shoe?",
    "Why is the sky blue in the day?",
    "How does a bicycle stay up?",
]
# What the processor has that decides how fast it multiplies.
FLAGS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")


def module(*places: str) -> Any:
    """The first of the core's modules that the checkout that runs has: earlier ones have some elsewhere."""
    *others, last = (f"moslim_core.{place}" for place in places)
    for place in others:
        with suppress(ModuleNotFoundError):
            return import_module(place)
    return import_module(last)


def settings_of(count: int, base: str, prompts: int, tokens: int) -> Any:
    from moslim_core.settings import Settings

    names = ["verbosity", "warmth", "simplicity", "humour", "candour", "care"][:count]
    return Settings.model_validate(
        {
            "preferences": [{"name": n, "levels": ["low", "middle", "high"]} for n in names],
            "model": {"base": base},
            "reward": {"backbone": base, "tuning": "lora"},
            "mapping": {"standardisation": "none"},
            "policy": {
                "steps": STEPS, "prompts_per_step": prompts, "targets_per_prompt": TARGETS, "group_size": GROUP,
                "micro_batch": prompts * TARGETS * GROUP, "max_new_tokens": tokens, "beta": 0.05, "lora_rank": RANK, "none_fraction": 0.0,
                "held_out_fraction": 0.0, "checkpoint_every": 10**6,
            },
        }
    )  # fmt: skip


def answers(policy: Any) -> int:
    """Of a step."""
    return policy.prompts_per_step * policy.targets_per_prompt * policy.group_size


def reward_folder(settings: Any, cache: Path, folder: Path) -> None:
    """An untrained reward model as the reward stage saves one: what it says costs as much as if it were right."""
    from moslim_core import models
    from moslim_core.reward.model import ADAPTER, create

    identify = module("models.identity", "model_identity").identify
    adapter_config = module("training.adapters", "adapters").adapter_config
    model, tokenizer = create(models.resolve(settings.reward.backbone, cache), settings.preferences, None, 256)
    from peft import get_peft_model

    adapted: Any = get_peft_model(model.backbones[0], adapter_config(model.backbones[0], RANK, None, "FEATURE_EXTRACTION"))
    adapted.save_pretrained(folder / ADAPTER)
    model.backbones[0] = adapted.merge_and_unload()
    model.config.adapter_of = identify(settings.reward.backbone, cache).id.model_dump()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


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


class Held:
    """Bytes of all tensors that live after the last update, on whatever device."""

    def __init__(self) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.bytes, self.steps = 0, 0
        register_optimizer_step_post_hook(self.count)

    def count(self, *_: Any) -> None:
        import torch

        self.steps += 1
        if self.steps < STEPS:
            return
        # A library's lazy module may raise when it is looked at.
        tensors = [found for found in gc.get_objects() if issubclass(type(found), torch.Tensor)]
        storages = [tensor.untyped_storage() for tensor in tensors if tensor.layout == torch.strided and tensor.device.type != "meta"]
        self.bytes = sum({(of.device, of.data_ptr()): of.nbytes() for of in storages}.values())


@contextmanager
def counted_update(training: Any) -> Iterator[list[float]]:
    """Puts the operations of the last step's update in the list; nothing where the checkout has no such phase."""
    from torch.utils.flop_counter import FlopCounterMode

    operations: list[float] = []
    if not hasattr(training, "TrainingLog"):
        yield operations
        return
    phase, updates = training.TrainingLog.phase, 0

    @contextmanager
    def counting(self: Any, name: str) -> Iterator[None]:
        nonlocal updates
        updates += name == "update"
        if name != "update" or updates < STEPS:
            with phase(self, name):
                yield
            return
        with FlopCounterMode(display=False) as counter, phase(self, name):
            yield
        operations.append(float(counter.get_total_flops()))

    training.TrainingLog.phase = counting
    yield operations
    training.TrainingLog.phase = phase


def ours(settings: Any, cache: Path, folder: Path) -> dict[str, float]:
    """The stage as it is, in whatever checkout is on the path: seconds of a step, and of its reward model, from its own record."""
    from moslim_core.policy import training

    Progress = module("training.progress", "progress").Progress
    reward_folder(settings, cache, folder / "reward")
    rows = [json.dumps({"prompt": [{"role": "user", "content": q}]}) for q in QUESTIONS]
    (folder / "prompts.train.jsonl").write_text("\n".join(rows) + "\n")
    record = Progress(folder / "events.jsonl")
    with counted_update(training) as operations:
        training.train(settings, folder, folder / "reward", cache, folder / "checkpoints", folder / "out", record)
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    steps = [e["values"] for e in events if e["event"] == "metrics"][1:-1]
    figures = {name: statistics.median(step[f"seconds/{name}"] for step in steps) for name in ("step", "rollout", "reward", "update")}
    return figures | dict(zip(["operations"], operations, strict=False))


def trl(settings: Any, cache: Path, folder: Path) -> dict[str, float]:
    """Its step's seconds, and those of its reward models."""
    from datasets import Dataset
    from transformers import AttentionInterface, AutoModelForSequenceClassification, AutoTokenizer
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from trl import RLOOConfig, RLOOTrainer

    from moslim_core import models
    from moslim_core.policy.conditioning import training_examples

    adapter_config = module("training.adapters", "adapters").adapter_config
    policy, base = settings.policy, settings.model.base
    model, tokenizer = models.load_chat_model(base, cache)
    # As its users have it: models that this project loads go back through attention in its own way.
    AttentionInterface.register("sdpa", sdpa_attention_forward)
    source = models.resolve(base, cache)
    judges, tokenizers = [], []
    for _ in settings.preferences.names:
        judge = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1, dtype=model.dtype).to(model.device)
        judge.config.pad_token_id = tokenizer.pad_token_id
        judges.append(judge)
        tokenizers.append(AutoTokenizer.from_pretrained(source, pad_token=tokenizer.pad_token))
    examples = training_examples([[{"role": "user", "content": q}] for q in QUESTIONS], settings.preferences, policy, 0)
    conversations = [e.prompt if hasattr(e, "prompt") else e["prompt"] for e in examples]
    clock = Clock()
    rollouts = answers(policy)
    cpu = str(model.device) == "cpu"
    trainer: Any = RLOOTrainer(
        model=model, reward_funcs=judges, reward_processing_classes=tokenizers, processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": c} for c in conversations]),
        peft_config=adapter_config(model, RANK, None, "CAUSAL_LM"),
        callbacks=[clock.callback()],
        args=RLOOConfig(
            output_dir=str(folder / "out"), max_steps=policy.steps, per_device_train_batch_size=rollouts, num_generations=policy.group_size,
            max_completion_length=policy.max_new_tokens, beta=policy.beta, gradient_checkpointing=False, learning_rate=policy.learning_rate,
            report_to=[], disable_tqdm=True, bf16=False, use_cpu=cpu, save_strategy="no", logging_steps=1, dataloader_pin_memory=not cpu,
        ),
    )  # fmt: skip
    trainer._calculate_rewards = clock.timed(trainer._calculate_rewards)
    trainer.train()
    return {"step": statistics.median(clock.steps[1:-1]), "reward": statistics.median(clock.rewards[1:-1])}


def child(system: str, count: int, base: str, prompts: int, tokens: int, cache: Path, result: Path) -> None:
    import torch

    held = Held()
    with tempfile.TemporaryDirectory() as name:
        settings = settings_of(count, base, prompts, tokens)
        figures: dict[str, Any] = (trl if system == "trl" else ours)(settings, cache, Path(name))
    figures["held"] = held.bytes
    if "operations" in figures:
        figures["reached"] = figures["operations"] / figures["update"] / products(settings, cache)
    figures["resident"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures["device_peak"] = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    figures["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    result.write_text(json.dumps(figures))


def products(settings: Any, cache: Path) -> float:
    """Operations a second of products of matrices here, in the dtype of the run."""
    from moslim_core import models
    from moslim_core.cost import measured_speed

    device = models.pick_device(settings.model.device)
    return measured_speed(device, models.pick_dtype(settings.model.dtype, device, cache)).operations


def processor() -> str:
    """Its name, and the best of the instructions that it has for products of matrices."""
    info = Path("/proc/cpuinfo")
    lines = dict(line.split("\t", 1) for line in info.read_text().split("\n\n")[0].splitlines() if "\t" in line) if info.is_file() else {}
    named = {key: value.lstrip("\t: ") for key, value in lines.items()}
    best = next((flag for flag in FLAGS if flag in named.get("flags", "")), "none of " + ", ".join(FLAGS))
    return f"{named.get('model name', platform.processor())} with {best}"


def measure(system: str, count: int, options: argparse.Namespace, cache: Path) -> dict[str, Any]:
    from tasks.surroundings import environment

    checkout = Path(options.against).resolve() if system == "against" else ROOT
    with tempfile.TemporaryDirectory() as name:
        result = Path(name) / "result.json"
        numbers = (str(count), options.base, str(options.prompts), str(options.tokens), str(cache), str(result))
        command = [sys.executable, __file__, "child", system, *numbers]
        paths = {"PYTHONPATH": str(checkout)}
        done = subprocess.run(command, env={**os.environ, **environment.QUIET, **paths}, cwd=checkout, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return json.loads(result.read_text())


def main(options: argparse.Namespace, cache: Path) -> None:
    number = options.prompts * TARGETS * GROUP
    print(f"{number} answers of {options.tokens} tokens a step, {options.base}, {options.rounds} rounds", flush=True)
    others = [*(["trl"] if not options.only_against else []), *(["against"] if options.against else [])]
    for count in options.preferences:
        turns: list[dict[str, dict[str, Any]]] = []
        for number in range(options.rounds):
            turns.append({})
            for system in ["ours", *others]:
                turns[-1][system] = measure(system, count, options, cache)
                print(f"  round {number + 1}: {system}: {turns[-1][system]['step']:.2f} s a step", flush=True)
        print(f"\n{count} preferences ({turns[0]['ours']['device']})")
        for other in others:
            for key, unit, scale in (("step", "s", 1), ("rollout", "s", 1), ("reward", "s", 1), ("update", "s", 1), ("held", "GB", 1e9),
                                     ("resident", "GB", 1e9), ("device_peak", "GB", 1e9)):  # fmt: skip
                if turns[0][other].get(key):
                    a, b = (statistics.median(turn[system][key] for turn in turns) / scale for system in ("ours", other))
                    print(f"  {key}: {a:.3f} {unit} against {b:.3f} {unit} of {other}: {a / b:.2f}x", flush=True)
        if "reached" in turns[0]["ours"]:
            share = statistics.median(turn["ours"]["reached"] for turn in turns)
            print(f"  update: {share:.0%} of what products of matrices reach", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "child":
        child(sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]), int(sys.argv[6]), Path(sys.argv[7]), Path(sys.argv[8]))
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--rounds", type=int, default=2)
        parser.add_argument("--base", default="smollm2-135m")
        parser.add_argument("--prompts", type=int, default=2, help="per step")
        parser.add_argument("--tokens", type=int, default=32, help="of an answer")
        parser.add_argument("--preferences", type=int, nargs="+", default=[3, 6])
        parser.add_argument("--against", help="another checkout of this project")
        parser.add_argument("--only-against", action="store_true", help="leave TRL out")
        with tempfile.TemporaryDirectory() as name:
            main(parser.parse_args(), Path(name))
