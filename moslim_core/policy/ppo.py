"""PPO (Schulman et al. 2017; TRL removed its own in 1.13): a critic, advantages per token, clipped losses, a KL penalty per token.

Rollouts, batches, checkpoints and processes are TRL's group trainer's. The critic is a head on the policy's own last hidden state,
whose gradient stays in the head: no second model, no second pass. Not covered: minibatches within a batch of answers (an update uses
all of it), value functions with weights of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from trl import GRPOConfig

from moslim_core.distributed import processes
from moslim_core.policy import advantages as ppo
from moslim_core.policy.grpo import SharedPrefixGRPOTrainer
from moslim_core.policy.relabelling import alone, centred, pair
from moslim_core.policy.reward_function import PolicyReward
from moslim_core.policy.setup import Setup
from moslim_core.policy.shared_prefix import completion_log_probs, unpadded
from moslim_core.settings import PolicySettings

CRITIC_FILE = "critic.safetensors"


class Critic(nn.Module):
    """Hidden states (n, t, d) -> values (n, t) in units of reward; 0 everywhere before it has learnt."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(states.detach().float())).squeeze(-1)


class PPOTrainer(SharedPrefixGRPOTrainer):
    """The group trainer's rollouts with PPO's advantages and losses."""

    def __init__(self, reward: PolicyReward, policy: PolicySettings, **options: Any) -> None:
        # Relabelling is done here, per token.
        super().__init__(reward=reward, relabel=False, **options)
        self.policy = policy
        self.kl_coefficient = policy.beta
        model = self.accelerator.unwrap_model(self.model)
        # A part of the model, so that it is moved, wrapped and optimised with it; adapters are saved without it.
        model.critic = Critic(model.config.get_text_config().hidden_size).to(self.accelerator.device)
        self.scores = torch.zeros(0)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        critic = list(self.accelerator.unwrap_model(self.model).critic.parameters())
        own = {id(p) for p in critic}
        adapters = [p for p in self.model.parameters() if p.requires_grad and id(p) not in own]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": adapters, "lr": self.args.learning_rate},
                {"params": critic, "lr": self.policy.ppo.critic_learning_rate},
            ],
            weight_decay=self.args.weight_decay,
            betas=(self.args.adam_beta1, self.args.adam_beta2),
            eps=self.args.adam_epsilon,
        )
        return self.optimizer

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        gathered = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        first = self.accelerator.process_index * len(prompts)
        self.scores = gathered[first : first + len(prompts), 0]
        return gathered

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        # vLLM is sent all parameters of the model by name, and knows no critic.
        model = self.accelerator.unwrap_model(self.model)
        critic = model.critic
        del model.critic
        try:
            return super()._generate_single_turn(*args, **kwargs)
        finally:
            model.critic = critic

    def _read(self, model: Any, batch: dict[str, Any], rows: slice = slice(None)) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(log-probabilities, entropies, values), each (n, t), of a batch's answers under the policy as it is."""
        ids, kept = (torch.cat([batch[f"prompt_{k}"], batch[f"completion_{k}"]], dim=1)[rows] for k in ("ids", "mask"))
        width = batch["completion_ids"].shape[1]
        prompts = unpadded(ids[:, :-width], kept[:, :-width])
        share = processes() == 1 and not self.args.gradient_checkpointing
        read = completion_log_probs(model, prompts, ids[:, -width:], kept[:, -width:], self.temperature, states=True, share=share)
        self._require_finite(read.log_probs, ids, kept, width)
        return read.log_probs, cast(torch.Tensor, read.entropies), self.accelerator.unwrap_model(self.model).critic(read.states)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        scored = super()._generate_and_score_completions(inputs)
        scores, reference = self.scores, scored.pop("ref_per_token_logps", None)
        pairs = (pair if self.policy.relabel else alone)(inputs)
        scored |= pairs.expand(scored)
        if self.policy.relabel:
            scores = self.reward.under(pairs).to(scores)
        mask = scored["completion_mask"].float()
        args, once = cast(GRPOConfig, self.args), self._once()
        if once:
            parts = [self._read(self.model, scored)]
        else:
            size = args.per_device_train_batch_size
            with torch.no_grad():
                parts = [self._read(self.model, scored, slice(i, i + size)) for i in range(0, len(mask), size)]
        log_probs, entropies, values = (torch.cat(column) for column in zip(*parts, strict=True))
        if once:
            scored |= {"log_probs": log_probs, "entropies": entropies, "values": values}
        log_probs, values = log_probs.detach(), values.detach()
        # Only what an answer was drawn under tells how far the policy is from the reference.
        reference = log_probs if reference is None else pairs.only_own(reference, log_probs)
        weight = pairs.weights(log_probs, mask)
        # After few batches a critic knows no prompts: what all answers to a request have in common is taken off before it.
        scores = pairs.by_family(centred, weight, scores)
        rewards = ppo.token_rewards(scores, log_probs, reference, mask, self.kl_coefficient)
        settings = self.policy.ppo
        advantages, returns = ppo.estimate(rewards, values, mask, settings.discount, settings.gae_lambda)
        if self.policy.normalise_advantages:
            advantages = ppo.whiten(advantages, mask, self._sum)
        advantages = advantages * weight.unsqueeze(1)
        self._metrics["train"]["own_weight"].append(weight[pairs.own].mean().item())
        if "importance_sampling_ratio" in scored:
            # vLLM's probabilities are not quite the policy's: TRL's weight of an answer, 0 where they are too far apart.
            advantages = advantages * scored.pop("importance_sampling_ratio")
        scored |= {"advantages": advantages, "returns": returns, "old_values": values, "old_per_token_logps": log_probs}
        self._record((log_probs - reference)[pairs.own], values[pairs.own], returns[pairs.own], mask[pairs.own])
        return scored

    def _sum(self, local: torch.Tensor) -> torch.Tensor:
        """Over all processes."""
        return cast(torch.Tensor, self.accelerator.reduce(local, reduction="sum"))

    def _record(self, log_ratio: torch.Tensor, values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> None:
        found = self._metrics["train"]
        if self.policy.beta:
            total, count = self._sum(torch.stack([(log_ratio * mask).sum(), mask.sum()]))
            found["kl"].append((total / count.clamp(min=1)).item())
            found["kl_coefficient"].append(self.kl_coefficient)
            if self.policy.ppo.kl_target is not None:
                per_answer = self._sum((log_ratio * mask).sum() / len(mask)) / processes()
                self.kl_coefficient = ppo.steer(self.kl_coefficient, per_answer.item(), self.policy.ppo.kl_target)
        kept = mask.bool()
        spread = returns[kept].var(unbiased=False)
        explained = 1 - (returns - values)[kept].var(unbiased=False) / spread if spread > 0 else torch.zeros(())
        found["explained_variance"].append(float(explained))

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        mask = inputs["completion_mask"].float()
        if "log_probs" in inputs:
            log_probs, entropies, values = (inputs[name] for name in ("log_probs", "entropies", "values"))
        else:
            log_probs, entropies, values = self._read(model, inputs)
        settings = self.policy.ppo
        # Processes' gradients are averaged: all divide by the same number of tokens.
        tokens = self._sum(mask.sum()) / processes()
        loss = ppo.policy_loss(log_probs, inputs["old_per_token_logps"], inputs["advantages"], mask, self.policy.clip, tokens)
        critic = ppo.value_loss(values, inputs["old_values"], inputs["returns"], mask, settings.value_clip, tokens)
        found = self._sum(torch.stack([critic.detach(), (entropies * mask).sum() / tokens])) / processes()
        self._metrics["train"]["value_loss"].append(found[0].item())
        self._metrics["train"]["entropy"].append(found[1].item())
        return (loss + settings.value_weight * critic) / self.current_gradient_accumulation_steps

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if not self.args.should_save:
            return
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        critic = self.accelerator.unwrap_model(self.model).critic.state_dict()
        save_file(critic | {"kl_coefficient": torch.tensor(self.kl_coefficient, dtype=torch.float64)}, folder / CRITIC_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        saved = load_file(Path(resume_from_checkpoint) / CRITIC_FILE)
        self.kl_coefficient = float(saved.pop("kl_coefficient"))
        self.accelerator.unwrap_model(self.model).critic.load_state_dict(saved)


def trainer(setup: Setup) -> Any:
    """PPO on the setup."""
    policy = setup.policy
    return PPOTrainer(
        reward=setup.reward,
        policy=policy,
        args=GRPOConfig(**setup.group_arguments()),
        **setup.trainer_options(),
    )
