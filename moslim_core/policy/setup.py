"""What every optimiser is given, in the same words: model, reward, examples, and the arguments that all trainers share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset

from moslim_core.adapters import adapter_config
from moslim_core.distributed import mixed_precision, processes
from moslim_core.policy.reward_function import PolicyReward
from moslim_core.settings import PolicySettings


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is not above `most`."""
    return max(d for d in range(1, min(most, number) + 1) if number % d == 0)


class Setup(NamedTuple):
    """`examples` as `training_examples` makes them; `callbacks` are the same whatever the optimiser."""

    policy: PolicySettings
    model: Any
    tokenizer: Any
    reward: PolicyReward
    examples: list[dict[str, Any]]
    checkpoints: Path
    seed: int
    callbacks: list[Any]

    @property
    def rollouts(self) -> int:
        """Answers per step."""
        return self.policy.prompts_per_step * self.policy.targets_per_prompt * self.policy.group_size

    @property
    def micro_batch(self) -> int:
        """Answers per pass: the largest divisor of a process's answers that is not above `policy.micro_batch`."""
        policy, own = self.policy, self.rollouts // processes()
        most = max(1, policy.micro_batch // (policy.targets_per_prompt if policy.relabel else 1))
        return largest_divisor(own, most)

    def arguments(self) -> dict[str, Any]:
        """Training arguments that do not depend on the optimiser."""
        policy, device = self.policy, str(self.model.device)
        return {
            "output_dir": str(self.checkpoints),
            # Every batch of answers is learnt from `epochs` times, one update each.
            "max_steps": policy.steps * policy.epochs,
            "learning_rate": policy.learning_rate,
            # Without a warm-up the first steps, whose size Adam can't judge yet, lead away from the base for good.
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": min(3, policy.steps // 5) * policy.epochs,
            # TRL turns it on by default; with adapters on a model that fits, it only costs time.
            "gradient_checkpointing": policy.gradient_checkpointing,
            "disable_dropout": True,
            "temperature": policy.temperature,
            "logging_steps": 1,
            # A trainer can't resume in the middle of a batch of answers.
            "save_steps": policy.checkpoint_every * policy.epochs,
            "save_total_limit": 2,
            "seed": self.seed,
            "report_to": [],
            "disable_tqdm": True,
            # TRL would choose by itself, and DeepSpeed refuses another word than accelerate's.
            "bf16": mixed_precision() == "bf16",
            "fp16": mixed_precision() == "fp16",
            "use_cpu": device == "cpu",
            # All that learns has a gradient in every update; PPO's critic, called outside the wrapped model, would count as unused.
            "ddp_find_unused_parameters": False,
            "ddp_backend": "gloo" if device == "cpu" and processes() > 1 else None,
            "dataloader_pin_memory": device.startswith("cuda"),
        }

    def group_arguments(self) -> dict[str, Any]:
        """Arguments of TRL's trainers that learn from groups of answers to one prompt."""
        return self.arguments() | {
            "per_device_train_batch_size": self.micro_batch,
            "gradient_accumulation_steps": self.rollouts // processes() // self.micro_batch,
            "num_generations": self.policy.group_size,
            "num_iterations": self.policy.epochs,
            "epsilon": self.policy.clip,
            "beta": self.policy.beta,
            "max_completion_length": self.policy.max_new_tokens,
            # Examples come in the order of their stratified targets, each once: a resumed run meets the same ones.
            "shuffle_dataset": False,
            # What balances a mixture's experts is no part of any loss here.
            "router_aux_loss_coef": 0.0,
            "use_vllm": self.policy.vllm,
            "vllm_mode": "colocate",
            # It would end at the tokenizer's end token alone.
            "generation_kwargs": {"stop_token_ids": self.model.generation_config.eos_token_id} if self.policy.vllm else None,
        }

    def trainer_options(self, repeats: int = 1) -> dict[str, Any]:
        """Keywords of every trainer; each example stands in the data `repeats` times."""
        return {
            "model": self.model,
            "processing_class": self.tokenizer,
            "train_dataset": Dataset.from_list([e for e in self.examples for _ in range(repeats)]),
            "peft_config": adapter_config(self.model, self.policy.lora_rank, self.policy.lora_layers, "CAUSAL_LM"),
            "callbacks": self.callbacks,
        }
