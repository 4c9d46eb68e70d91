"""GRPO through TRL: advantages normalised within groups of answers to the same conditioned prompt (Shao et al. 2024)."""

from __future__ import annotations

from typing import Any, cast

from trl import GRPOConfig, GRPOTrainer

from moslim_core.policy.rollouts import SharedPrefixRollouts
from moslim_core.policy.setup import Setup


class SharedPrefixGRPOTrainer(SharedPrefixRollouts, GRPOTrainer):
    """TRL's GRPO with what prompts share computed once."""

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._generate_single_turn(*args, **kwargs)
        # TRL's own gives log-probabilities of another sampler too, where there is one.
        return found if isinstance(found, tuple) else (found, None)


def trainer(setup: Setup) -> Any:
    """TRL's GRPO on the setup; normalised per preference it is GDPO's way of adding rewards up (Liu et al. 2026)."""
    policy, mapping = setup.policy, setup.reward.mapping
    apart = policy.grpo.normalise == "per_preference"
    return SharedPrefixGRPOTrainer(
        reward_funcs=cast(Any, setup.reward.parts() if apart else setup.reward),
        args=GRPOConfig(
            **setup.group_arguments(),
            num_iterations=policy.epochs,
            epsilon=policy.clip,
            beta=policy.beta,
            scale_rewards="group" if policy.normalise_advantages else "none",
            multi_objective_aggregation="normalize_then_sum" if apart else "sum_then_normalize",
            reward_weights=[mapping.settings.weights.get(name, 1.0) for name in mapping.schema.names] if apart else None,
        ),
        **setup.trainer_options(),
    )
