"""GRPO through TRL: advantages normalised within groups of answers to the same conditioned prompt (Shao et al. 2024)."""

from __future__ import annotations

from typing import Any, cast

import torch
from trl import GRPOConfig, GRPOTrainer

from moslim_core.policy.relabelling import Pairs, advantages, normalised_advantages, pair
from moslim_core.policy.reward_function import PolicyReward
from moslim_core.policy.rollouts import SharedPrefixRollouts
from moslim_core.policy.setup import Setup


class SharedPrefixGRPOTrainer(SharedPrefixRollouts, GRPOTrainer):
    """TRL's GRPO with what prompts share computed once, and with `relabel` each answer under its prompt's requests."""

    def __init__(self, reward: PolicyReward, relabel: bool, **options: Any) -> None:
        super().__init__(**{"reward_funcs": cast(Any, reward), **options})
        self.reward, self.relabel = reward, relabel

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._generate_single_turn(*args, **kwargs)
        # TRL's own gives log-probabilities of another sampler too, where there is one.
        return found if isinstance(found, tuple) else (found, None)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        scored = super()._generate_and_score_completions(inputs)
        return self._relabelled(scored, pair(inputs)) if self.relabel else scored

    def _relabelled(self, scored: dict[str, Any], pairs: Pairs) -> dict[str, Any]:
        """The batch with each answer under every request of its prompt; the KL term counts those under their own."""
        batch = pairs.expand(scored)
        ids, mask = (torch.cat([batch[f"prompt_{k}"], batch[f"completion_{k}"]], dim=1) for k in ("ids", "mask"))
        width = batch["completion_ids"].shape[1]
        once = self._once()
        size = None if once else cast(GRPOConfig, self.args).per_device_train_batch_size
        with torch.set_grad_enabled(once):
            log_probs, entropies, _ = self._get_per_token_logps_and_entropies(self.model, ids, mask, width, size, True)
        if once:
            batch |= {"log_probs": log_probs, "entropies": cast(torch.Tensor, entropies)}
        old = log_probs.detach()
        weight = pairs.weights(old, batch["completion_mask"])
        way = normalised_advantages if self.scale_rewards != "none" else advantages
        more = {"advantages": pairs.by_family(way, weight, self.reward.under(pairs).to(weight)), "old_per_token_logps": old}
        if "ref_per_token_logps" in scored:
            # Where policy and reference are equal TRL's estimate of the divergence and its gradient are 0.
            more["ref_per_token_logps"] = pairs.only_own(scored["ref_per_token_logps"], old)
        self._metrics["train"]["own_weight"].append(weight[pairs.own].mean().item())
        tokens = self.accelerator.reduce(batch["completion_mask"].sum(), reduction="sum")
        return {**batch, **more, "num_items_in_batch": tokens}


def trainer(setup: Setup) -> Any:
    """TRL's GRPO on the setup; normalised per preference it is GDPO's way of adding rewards up (Liu et al. 2026)."""
    policy, mapping = setup.policy, setup.reward.mapping
    apart = policy.grpo.normalise == "per_preference"
    return SharedPrefixGRPOTrainer(
        reward=setup.reward,
        relabel=policy.relabel,
        **({"reward_funcs": setup.reward.parts()} if apart else {}),
        args=GRPOConfig(
            **setup.group_arguments(),
            scale_rewards="group" if policy.normalise_advantages else "none",
            multi_objective_aggregation="normalize_then_sum" if apart else "sum_then_normalize",
            reward_weights=[mapping.settings.weights.get(name, 1.0) for name in mapping.schema.names] if apart else None,
        ),
        **setup.trainer_options(),
    )
