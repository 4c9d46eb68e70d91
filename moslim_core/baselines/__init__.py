"""Compared systems: every method answers at the same operating points, from the same starting model, reward model and rollout budget.

One is a module here. This project's method has a name per optimiser. Here are names alone, which cost nothing.
"""

from moslim_core import registry

# Whose front gives the reference point.
START = "prompt_only"
# What this project's own are registered as.
OWN = "moslim"


def ours() -> dict[str, str]:
    """This project's own: name -> optimiser."""
    return {f"moslim_{optimiser}": optimiser for optimiser in registry.optimiser.names}


def methods() -> dict[str, str]:
    """{name: what it is} of all, the starting model first and this project's last."""
    others = registry.baseline.listed()
    own = {name: f"this project's policy, by {optimiser}" for name, optimiser in ours().items()}
    return {START: others[START], **{name: about for name, about in others.items() if name != OWN}, **own}
