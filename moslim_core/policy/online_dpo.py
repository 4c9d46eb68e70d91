"""Online DPO on TRL's trainer (Guo et al. 2024), with the reward model's own certainty: a preference has a probability (ours).

Of two answers the first is preferred with probability sigmoid(r_1 - r_2), as Bradley and Terry have it. Where both are about as good,
hard labels push at random, with full force; here such a pair pulls back to the reference. The loss is that of DPO in expectation over
labels (conservative DPO, Mitchell 2023, with a smoothing per pair), and its optimum that of RL with the same beta,
pi / pi_ref ~ exp(r / beta).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import SequentialSampler

from moslim_core.distributed import processes
from moslim_core.errors import UserError
from moslim_core.policy.relabelling import Pairs, alone, pair
from moslim_core.policy.reward_function import PolicyReward, zero_variance
from moslim_core.policy.setup import Setup, largest_divisor
from moslim_core.policy.shared_prefix import completion_log_probs, first_broken, generate_completions
from moslim_core.preferences import prompt_tokens

try:
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer
except ImportError as error:
    raise UserError(
        "policy.optimiser=online_dpo, but this version of trl has no trl.experimental.online_dpo.\n"
        "Install trl 1.16, or take another optimiser: rloo, grpo, ppo."
    ) from error


def preference_losses(log_ratios: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """Losses (a, ...) in nats of a answers to one request: of each the mean over the pairs that it is in.

    `log_ratios`: log pi / pi_ref of whole answers, (a, ...), as `rewards`. A pair's loss is the cross-entropy of
    sigmoid(beta * difference of log-ratios) against sigmoid(difference of rewards); 0 with no other answer.
    """
    preferred = torch.sigmoid(rewards.unsqueeze(1) - rewards.unsqueeze(0))
    margins = beta * (log_ratios.unsqueeze(1) - log_ratios.unsqueeze(0))
    losses = -preferred * F.logsigmoid(margins) - (1 - preferred) * F.logsigmoid(-margins)
    others = ~torch.eye(len(rewards), dtype=torch.bool, device=rewards.device)
    return (losses * others.view(*others.shape, *[1] * (rewards.dim() - 1))).sum(dim=1) / max(1, len(rewards) - 1)


class SharedPrefixOnlineDPOTrainer(OnlineDPOTrainer):
    """TRL's Online DPO with the losses above over all pairs of a group, what prompts share computed once, and its others' metrics."""

    processing_class: Any
    eos_token_ids: list[int]

    def __init__(self, reward: PolicyReward, relabel: bool, **options: Any) -> None:
        super().__init__(reward_funcs=cast(Any, reward), **options)
        self.reward, self.relabel = reward, relabel
        # TRL's own say less than these.
        self.stats = {}
        self.collected: dict[str, list[float]] = defaultdict(list)

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        # Examples come in the order of their stratified targets, each once.
        return SequentialSampler(cast(Any, train_dataset or self.train_dataset))

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        model.train()
        rows = [dict(zip(inputs, values, strict=True)) for values in zip(*inputs.values(), strict=True)]
        # DPO asks which of two answers is better under a request, not which request they were drawn under.
        pairs = (pair if self.relabel else alone)(rows)
        asked = prompt_tokens(self.processing_class, inputs["prompt"])
        drawn = generate_completions(self.accelerator.unwrap_model(model), asked, self.generation_config)
        rewards = self._rewards(inputs, drawn, pairs)
        requests = [asked[row] for row in pairs.requests]
        answers = self.processing_class.pad(
            {"input_ids": [drawn[row] for row in pairs.answers]}, padding_side="right", return_tensors="pt"
        ).to(self.accelerator.device)
        ids, mask = answers["input_ids"], answers["attention_mask"]
        log_probs, entropies = self._log_probs(model, requests, ids, mask)
        with torch.no_grad(), cast(Any, self.model).disable_adapter():
            reference, _ = self._log_probs(self.model, requests, ids, mask)
        divergence = (log_probs - reference).masked_fill(mask == 0, 0.0)
        losses = pairs.by_family(lambda d, r: preference_losses(d, r, self.beta), divergence.sum(dim=1), rewards.to(divergence))
        tokens = mask[pairs.own].sum()
        self._collect("kl", divergence.detach()[pairs.own].sum() / tokens)
        self._collect("entropy", entropies.masked_fill(mask == 0, 0.0)[pairs.own].sum() / tokens)
        loss = losses.mean() / self.args.gradient_accumulation_steps
        self.accelerator.backward(loss)
        return loss.detach()

    def _log_probs(self, model: Any, prompts: list[list[int]], ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(log-probabilities, entropies), each (n, c). Raises RuntimeError naming the first prompt whose answer has no finite one."""
        share = processes() == 1 and not self.args.gradient_checkpointing
        log_probs, entropies, _ = completion_log_probs(model, prompts, ids, mask, share=share)
        row = first_broken(log_probs, mask)
        if row is not None:
            raise RuntimeError(
                f"step {self.state.global_step + 1}: the policy gives no finite probability to an answer to this prompt: "
                f"{self.processing_class.decode(prompts[row], skip_special_tokens=True)!r}.\n"
                "Lower policy.learning_rate; the last checkpoint is kept."
            )
        return log_probs, cast(Tensor, entropies)

    def _rewards(self, inputs: dict[str, list[Any]], drawn: list[list[int]], pairs: Pairs) -> Tensor:
        """Rewards (n * t,) of the pairs."""
        texts = self.processing_class.batch_decode(drawn, skip_special_tokens=True)
        rewards = torch.tensor(self.reward(completions=texts, completion_ids=drawn, log_metric=self._collect, **inputs))
        ended = [answer[-1] in self.eos_token_ids for answer in drawn]
        self._collect("completions/mean_length", sum(map(len, drawn)) / len(drawn))
        self._collect("completions/clipped_ratio", 1 - sum(ended) / len(ended))
        self._collect("reward", rewards.mean())
        self._collect("reward_std", rewards.std())
        self._collect("frac_reward_zero_std", zero_variance(rewards.numpy(), np.array(inputs["group"])))
        return self.reward.under(pairs) if self.relabel else rewards

    def _collect(self, name: str, value: Any) -> None:
        self.collected[name].append(float(value))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= {name: sum(values) / len(values) for name, values in self.collected.items()}
            self.collected.clear()
        super().log(logs, start_time)


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {key: [row[key] for row in rows] for key in rows[0]}


def trainer(setup: Setup) -> Any:
    """TRL's Online DPO on the setup."""
    policy = setup.policy
    # A pass holds whole groups, with `relabel` all requests of its prompts, each answer under all of them.
    requests = policy.targets_per_prompt if policy.relabel else 1
    together, own = policy.group_size * requests, setup.rollouts // processes()
    micro = together * largest_divisor(own // together, max(1, policy.micro_batch // (together * requests)))
    return SharedPrefixOnlineDPOTrainer(
        reward=setup.reward,
        relabel=policy.relabel,
        args=OnlineDPOConfig(
            **setup.arguments(),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=own // micro,
            max_new_tokens=policy.max_new_tokens,
            max_length=policy.max_prompt_tokens + policy.max_new_tokens,
            beta=cast(Any, policy.beta),
            top_k=0,
            remove_unused_columns=False,
        ),
        data_collator=cast(Any, _columns),
        **setup.trainer_options(repeats=policy.group_size),
    )
