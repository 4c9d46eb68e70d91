"""The policy as answers are drawn from it: one plain model, the adapter added to the weights that it changes. (ours)

Drawing goes through the model token by token, where an adapter's small products cost as much as the base's large ones: a sum, made anew
after every update, costs them once. What the adapter does not change (embeddings, norms, output layer) is the base's own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer


class DrawingModel:
    """A copy of a base that follows a policy's weights. It is made before the base gets its adapter."""

    def __init__(self, base: Any, adapted: Sequence[str]) -> None:
        """`adapted`: names of the modules that the adapter will be on; only their weights are copied."""
        self.adapted = adapted
        own = {id(base.get_submodule(name).weight) for name in adapted}
        shared = [t for t in [*base.parameters(), *base.buffers()] if id(t) not in own]
        self.model = copy.deepcopy(base, {id(t): t for t in shared})
        for name in adapted:
            self.model.get_submodule(name).weight.requires_grad_(False)

    def fits(self, policy: Any) -> bool:
        """Whether the adapter of `policy` is on what was copied alone. PEFT puts that of some mixtures on their packed experts too."""
        return {name for name, module in policy.get_base_model().named_modules() if isinstance(module, LoraLayer)} == set(self.adapted)

    def follow(self, policy: Any, adapter: str) -> Any:
        """The plain model with the weights of `policy` (a PeftModel on the base) under its adapter as they are now."""
        base = policy.get_base_model()
        with torch.no_grad():
            for name in self.adapted:
                layer, weight = base.get_submodule(name), self.model.get_submodule(name).weight
                torch.add(layer.base_layer.weight, layer.get_delta_weight(adapter).to(weight.dtype), out=weight)
        return self.model
