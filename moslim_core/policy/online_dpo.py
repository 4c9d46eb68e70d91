"""Online DPO through TRL: of two answers to a prompt the better one is preferred by DPO's loss (Guo et al. 2024).

A group of more than two answers counts as so many pairs of its prompt.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, cast

import torch
from torch.utils.data import SequentialSampler

from moslim_core.distributed import processes
from moslim_core.errors import UserError
from moslim_core.policy.setup import Setup, largest_divisor
from moslim_core.policy.shared_prefix import completion_log_probs, generate_completions
from moslim_core.preferences import chat_text

try:
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer
except ImportError as error:
    raise UserError(
        "policy.optimiser=online_dpo, but this version of trl has no trl.experimental.online_dpo.\n"
        "Install trl 1.16, or take another optimiser: rloo, grpo, ppo."
    ) from error


class SharedPrefixOnlineDPOTrainer(OnlineDPOTrainer):
    """TRL's Online DPO with what prompts share computed once, float32 log-probabilities, and metrics under the names of TRL's others."""

    processing_class: Any
    eos_token_ids: list[int]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.collected: dict[str, list[float]] = defaultdict(list)
        self.log_probs: list[torch.Tensor] = []

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        # Examples come in the order of their stratified targets, each once.
        return SequentialSampler(cast(Any, train_dataset or self.train_dataset))

    def _generate(self, model: Any, prompts: Any, images: Any = None) -> Any:
        self.log_probs = []
        texts = [chat_text(self.processing_class, p) for p in prompts]
        asked = self.processing_class(texts, add_special_tokens=False)["input_ids"] * 2
        answers = self._sample(asked, self.accelerator.unwrap_model(model))
        prompt_ids, prompt_mask = self._padded(asked, left=True)
        completion_ids, completion_mask = self._padded(answers, left=False)
        self.collected["completions/mean_length"].append(sum(map(len, answers)) / len(answers))
        ended = torch.isin(completion_ids, torch.tensor(self.eos_token_ids, device=completion_ids.device)).any(dim=1)
        self.collected["completions/clipped_ratio"].append(1 - ended.float().mean().item())
        return prompt_ids, prompt_mask, completion_ids, completion_mask, None

    def _sample(self, prompt_ids: list[list[int]], policy: Any) -> list[list[int]]:
        was_training = policy.training
        policy.eval()
        with torch.no_grad():
            answers = generate_completions(policy, prompt_ids, self.generation_config)
        policy.train(was_training)
        return answers

    def _padded(self, rows: list[list[int]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        side = "left" if left else "right"
        padded = self.processing_class.pad({"input_ids": rows}, padding_side=side, return_tensors="pt").to(self.accelerator.device)
        return padded["input_ids"], padded["attention_mask"]

    def _forward(
        self,
        model: Any,
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        completion_ids: torch.Tensor,
        completion_mask: torch.Tensor,
        vision_inputs: Any = None,
    ) -> torch.Tensor:
        prompts = [ids[kept.bool()].tolist() for ids, kept in zip(prompt_ids, prompt_mask, strict=True)]
        share = processes() == 1 and not self.args.gradient_checkpointing
        log_probs, entropies, _ = completion_log_probs(model, prompts, completion_ids, completion_mask, share=share)
        # TRL sums differences over padding too, where numbers mean nothing.
        log_probs = log_probs.masked_fill(completion_mask == 0, 0.0)
        if not torch.isfinite(log_probs.detach()).all():
            row = int((~torch.isfinite(log_probs.detach())).any(dim=1).nonzero()[0])
            raise RuntimeError(
                f"step {self.state.global_step + 1}: the policy gives no finite probability to an answer to this prompt: "
                f"{self.processing_class.decode(prompts[row], skip_special_tokens=True)!r}.\n"
                "Lower policy.learning_rate; the last checkpoint is kept."
            )
        if torch.is_grad_enabled():
            self.collected["entropy"].append(_mean(cast(torch.Tensor, entropies), completion_mask))
        self.log_probs.append(log_probs.detach())
        if len(self.log_probs) == 2:  # the policy's, then the reference's
            self.collected["kl"].append(_mean(self.log_probs[0] - self.log_probs[1], completion_mask))
        return log_probs

    def _calculate_rewards_from_functions(
        self, prompts: Any, completions: Any, completion_ids_list: list[list[int]], **columns: Any
    ) -> torch.Tensor:
        pad = self.processing_class.pad_token_id
        ids = [row[: len(row) - _trailing(row, pad, self.eos_token_ids)] for row in completion_ids_list]
        rewards = super()._calculate_rewards_from_functions(
            prompts, completions, ids, log_metric=lambda name, value: self.collected[name].append(value), **columns
        )
        self.collected["reward"].append(rewards.mean().item())
        self.collected["reward_std"].append(rewards.std().item())
        first, second = rewards.chunk(2)
        # TRL calls the first of two equal answers the better one: such pairs push at random.
        self.collected["frac_reward_zero_std"].append((first == second).float().mean().item())
        return rewards

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= {name: sum(values) / len(values) for name, values in self.collected.items()}
            self.collected.clear()
        super().log(logs, start_time)


def _mean(values: torch.Tensor, mask: torch.Tensor) -> float:
    return ((values * mask).sum() / mask.sum().clamp(min=1)).item()


def _trailing(row: list[int], pad: int, ends: list[int]) -> int:
    """Padding tokens at the end of a row; where padding and end are one token, the first of them is the end."""
    count = next((i for i, token in enumerate(reversed(row)) if token != pad), len(row))
    return max(0, count - 1) if pad in ends else count


def _rows(items: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {key: [item[key] for item in items] for key in items[0]}


def trainer(setup: Setup) -> Any:
    """TRL's Online DPO on the setup."""
    policy = setup.policy
    pairs = setup.rollouts // 2 // processes()
    micro = largest_divisor(pairs, max(1, policy.micro_batch // 2))
    return SharedPrefixOnlineDPOTrainer(
        reward_funcs=cast(Any, setup.reward),
        args=OnlineDPOConfig(
            **setup.arguments(),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=pairs // micro,
            max_new_tokens=policy.max_new_tokens,
            max_length=policy.max_prompt_tokens + policy.max_new_tokens,
            beta=cast(Any, policy.beta),
            top_k=0,
            remove_unused_columns=False,
        ),
        data_collator=cast(Any, _rows),
        **setup.trainer_options(repeats=policy.group_size // 2),
    )
