"""RLOO through TRL: leave-one-out baselines over groups of answers to the same conditioned prompt (Ahmadian et al. 2024)."""

from __future__ import annotations

from typing import Any, cast

import torch
from trl import RLOOConfig, RLOOTrainer

from moslim_core.policy.relabelling import Pairs, advantages, pair
from moslim_core.policy.reward_function import PolicyReward
from moslim_core.policy.rollouts import SharedPrefixRollouts
from moslim_core.policy.setup import Setup


class SharedPrefixRLOOTrainer(SharedPrefixRollouts, RLOOTrainer):
    """TRL's RLOO with what prompts share computed once, and with `relabel` each answer under its prompt's requests.

    Where one update of one batch follows on its answers, the pass that says how probable they are is also the update's: the policy
    is the same, so TRL's second pass would give the same numbers.
    """

    wanted = False
    pairs: Pairs | None = None

    def __init__(self, reward: PolicyReward, relabel: bool, **options: Any) -> None:
        super().__init__(reward_funcs=cast(Any, reward), **options)
        self.reward, self.relabel = reward, relabel
        # Log-probabilities of the answers at hand: the policy's, then the reference's.
        self.passes: list[torch.Tensor] = []

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.wanted, self.at_hand = self._once(), None
        self.pairs, self.passes = pair(inputs) if self.relabel else None, []
        scored = super()._generate_and_score_completions(inputs)
        if self.pairs is not None:
            scored = self._relabelled(scored, self.pairs)
            self.pairs = None
        if self.at_hand is not None:
            # With the other tensors of the batch, so that they are shuffled alike.
            scored["log_probs"], scored["entropies"] = self.at_hand
            self.at_hand = None
        return scored

    def _relabelled(self, scored: dict[str, Any], pairs: Pairs) -> dict[str, Any]:
        """The batch with each answer under every request of its prompt. The KL term is that under its own request."""
        policy, *reference = self.passes
        mask = scored["completion_mask"]
        batch = pairs.expand(scored)
        if self.at_hand is not None:
            log_probs = self.at_hand[0].detach()
        else:
            with torch.no_grad():
                log_probs, _, _ = self._get_per_token_logps_and_entropies(
                    self.model,
                    torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
                    torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
                    mask.shape[1],
                    cast(RLOOConfig, self.args).per_device_train_batch_size,
                )
        batch["old_logps"] = (log_probs * batch["completion_mask"]).sum(dim=1)
        weight = pairs.weights(log_probs, batch["completion_mask"])
        rewards = self.reward.under(pairs).to(policy)
        for frozen in reference:
            rewards = rewards - self.beta * ((policy - frozen) * mask).sum(dim=1)[pairs.answers]
        advantage = pairs.by_family(advantages, weight, rewards)
        if self.normalize_advantages:
            squares = self.accelerator.reduce((advantage**2 / weight.clamp(min=1e-6)).mean(), reduction="mean")
            advantage = advantage / (cast(torch.Tensor, squares).sqrt() + 1e-4)
        self._metrics["train"]["own_weight"].append(weight[pairs.own].mean().item())
        return {**batch, "advantages": advantage}

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **extra: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        if self.wanted:
            # The first pass after the answers is the policy's, the next is the reference's.
            self.wanted = False
            if self.pairs is not None:
                input_ids, attention_mask = (self.pairs.combine(x, logits_to_keep) for x in (input_ids, attention_mask))
            with torch.enable_grad():
                log_probs, entropies, _ = self._get_per_token_logps_and_entropies(
                    model, input_ids, attention_mask, logits_to_keep, len(input_ids), True, **extra
                )
            self.at_hand = log_probs, entropies
            self.passes.append(log_probs.detach()[slice(None) if self.pairs is None else self.pairs.own])
            return self.passes[0], None, None
        log_probs, entropies, aux = super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **extra
        )
        if not torch.is_grad_enabled():
            self.passes.append(log_probs)
        return log_probs, entropies, aux


def trainer(setup: Setup) -> Any:
    """TRL's RLOO on the setup."""
    policy = setup.policy
    return SharedPrefixRLOOTrainer(
        reward=setup.reward,
        relabel=policy.relabel,
        args=RLOOConfig(
            **setup.group_arguments(),
            normalize_advantages=policy.normalise_advantages,
        ),
        **setup.trainer_options(),
    )
