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
from moslim_core.policy.relabelling import pair
from moslim_core.policy.reward_function import PolicyReward
from moslim_core.policy.setup import Setup, largest_divisor
from moslim_core.policy.shared_prefix import completion_log_probs, first_broken, generate_completions, unpadded
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

    def __init__(self, reward: PolicyReward, relabel: bool, **options: Any) -> None:
        super().__init__(reward_funcs=cast(Any, reward), **options)
        self.reward, self.relabel = reward, relabel
        self.collected: dict[str, list[float]] = defaultdict(list)
        self.log_probs: list[torch.Tensor] = []
        # With `relabel` a row is a pair of answers under a request: whose answers it has, and which rows have those of their own request.
        self.answers: list[int] = []
        self.own: list[int] = []

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        # Examples come in the order of their stratified targets, each once.
        return SequentialSampler(cast(Any, train_dataset or self.train_dataset))

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        asked = self.answers = self.own = list(range(len(inputs["group"])))
        if self.relabel:
            # DPO asks which of two answers is better under a request, not which request they were drawn under.
            pairs = pair(_rows_of(inputs))
            asked, self.answers, self.own = pairs.requests.tolist(), pairs.answers.tolist(), pairs.own.tolist()
        return super().training_step(model, {key: [column[row] for row in asked] for key, column in inputs.items()}, num_items_in_batch)

    def _of_own(self, both: Any) -> Any:
        """The rows of first and second answers under their own request."""
        half = len(self.answers)
        return [both[row + start] for start in (0, half) for row in self.own]

    def _generate(self, model: Any, prompts: Any, images: Any = None) -> Any:
        self.log_probs = []
        texts = [chat_text(self.processing_class, p) for p in prompts]
        asked = self.processing_class(texts, add_special_tokens=False)["input_ids"] * 2
        drawn = generate_completions(self.accelerator.unwrap_model(model), self._of_own(asked), self.generation_config)
        ended = [answer[-1] in self.eos_token_ids for answer in drawn]
        self.collected["completions/mean_length"].append(sum(map(len, drawn)) / len(drawn))
        self.collected["completions/clipped_ratio"].append(1 - sum(ended) / len(ended))
        answers = [drawn[row + start] for start in (0, len(self.own)) for row in self.answers]
        prompt_ids, prompt_mask = self._padded(asked, left=True)
        completion_ids, completion_mask = self._padded(answers, left=False)
        return prompt_ids, prompt_mask, completion_ids, completion_mask, None

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
        prompts = unpadded(prompt_ids, prompt_mask)
        share = processes() == 1 and not self.args.gradient_checkpointing
        log_probs, entropies, _ = completion_log_probs(model, prompts, completion_ids, completion_mask, share=share)
        # TRL sums differences over padding too, where numbers mean nothing.
        log_probs = log_probs.masked_fill(completion_mask == 0, 0.0)
        row = first_broken(log_probs, completion_mask)
        if row is not None:
            raise RuntimeError(
                f"step {self.state.global_step + 1}: the policy gives no finite probability to an answer to this prompt: "
                f"{self.processing_class.decode(prompts[row], skip_special_tokens=True)!r}.\n"
                "Lower policy.learning_rate; the last checkpoint is kept."
            )
        shown = self._of_own(range(len(prompts)))
        mask = completion_mask[shown]
        if torch.is_grad_enabled():
            self.collected["entropy"].append(_mean(cast(torch.Tensor, entropies)[shown], mask))
        self.log_probs.append(log_probs.detach()[shown])
        if len(self.log_probs) == 2:  # the policy's, then the reference's
            self.collected["kl"].append(_mean(self.log_probs[0] - self.log_probs[1], mask))
        return log_probs

    def _calculate_rewards_from_functions(
        self, prompts: Any, completions: Any, completion_ids_list: list[list[int]], **columns: Any
    ) -> torch.Tensor:
        pad = self.processing_class.pad_token_id
        ids = [row[: len(row) - _trailing(row, pad, self.eos_token_ids)] for row in self._of_own(completion_ids_list)]
        own = {name: self._of_own(values) for name, values in columns.items()}
        rewards = super()._calculate_rewards_from_functions(
            self._of_own(prompts),
            self._of_own(completions),
            ids,
            log_metric=lambda name, value: self.collected[name].append(value),
            **own,
        )
        self.collected["reward"].append(rewards.mean().item())
        self.collected["reward_std"].append(rewards.std().item())
        first, second = rewards.chunk(2)
        # TRL calls the first of two equal answers the better one: such pairs push at random.
        self.collected["frac_reward_zero_std"].append((first == second).float().mean().item())
        return self.reward.under(pair(_rows_of(own))).to(rewards) if self.relabel else rewards

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


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {key: [row[key] for row in rows] for key in rows[0]}


def _rows_of(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def trainer(setup: Setup) -> Any:
    """TRL's Online DPO on the setup."""
    policy = setup.policy
    pairs, most = setup.rollouts // 2 // processes(), max(1, policy.micro_batch // 2)
    if policy.relabel:
        # A pass holds all requests of its prompts, each pair of answers under all of them.
        family = policy.targets_per_prompt * policy.group_size // 2
        micro = family * largest_divisor(pairs // family, max(1, most // (family * policy.targets_per_prompt)))
    else:
        micro = largest_divisor(pairs, most)
    return SharedPrefixOnlineDPOTrainer(
        reward=setup.reward,
        relabel=policy.relabel,
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
        data_collator=cast(Any, _columns),
        **setup.trainer_options(repeats=policy.group_size // 2),
    )
