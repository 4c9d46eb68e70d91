"""Compared systems: every method answers at the same operating points, from the same starting model, reward model and rollout budget.

Each module has a class `Compared` (`method.Method`); it is imported when chosen, so that names alone cost nothing.
"""

METHODS = {
    name: f"moslim_core.baselines.{name}"
    for name in (
        "prompt_only",
        "best_of_n",
        "morlhf",
        "rewarded_soups",
        "ric",
        "cpo",
        "moslim",
    )
}
