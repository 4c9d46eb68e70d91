"""Compared systems: every method answers at the same operating points, from the same starting model, reward model and rollout budget.

This project's method has one name per optimiser. Here are names alone, which cost nothing; `measure.COMPARED` has what they stand for.
"""

# name: its optimiser.
OURS = {f"moslim_{optimiser}": optimiser for optimiser in ("rloo", "grpo", "online_dpo", "ppo")}

METHODS = ("prompt_only", "best_of_n", "morlhf", "morlhf_normalised", "rewarded_soups", "rlphf", "ric", "cpo", *OURS)

# Theirs is the profile's mapping. The others learn from rewards of their own, which take no more of it than weights, or bring a policy.
MAPPED = ("best_of_n",)
# They learn from the rated answers too, by policy.sft.
SUPERVISED = ("ric", "cpo")
# They have no learning rate.
UNTRAINED = ("prompt_only", "best_of_n")
