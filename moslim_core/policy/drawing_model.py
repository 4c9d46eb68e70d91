"""The policy as one plain model, its adapter added to the weights that it changes: for drawing answers, and for learning from them. (ours)

An adapter's small products take about as long as the base's large ones, token by token and pass by pass. A sum, made anew after every
update, costs them once. The gradients are those of the adapter: with W' = W + s B A and y = x W'^T, dB = s dy^T (x A^T) and
dA = s (dy B)^T x. In bfloat16, where a small sum is lost to rounding, passes over what is learnt from keep the adapter apart, with or
without gradients, so that their numbers are the same. What the adapter does not change (embeddings, norms, output layer) is the base's own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D


class _Product(torch.autograd.Function):
    """x (n, i), weight (o, i), A (r, i), B (o, r), s -> x weight^T (n, o), and s (x A^T) B^T where it is `apart` from the weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float, apart: bool) -> Tensor:
        inner = x @ a.t() if apart else None
        ctx.save_for_backward(x, weight, a, b, inner)
        ctx.scale = scale
        y = x @ weight.t()
        return y if inner is None else y.addmm_(inner, b.t(), alpha=scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor, Tensor, None, None]:
        (dy,), (x, weight, a, b, inner) = gradients, ctx.saved_tensors
        back = dy @ b
        dx = None
        if ctx.needs_input_grad[0]:
            dx = dy @ weight
            if inner is not None:
                dx.addmm_(back, a, alpha=ctx.scale)
        inner = x @ a.t() if inner is None else inner
        return dx, None, (back.t() @ x).mul_(ctx.scale), (dy.t() @ inner).mul_(ctx.scale), None, None


class _Adapted(nn.Module):
    """A linear map with the sum of its own weight and an adapter's."""

    def __init__(self, own: Any, model: DrawingModel) -> None:
        super().__init__()
        self.of = model
        # GPT-2's own linear map keeps its weights the other way round.
        self.turned = isinstance(own, Conv1D)
        self.weight, self.bias = own.weight, own.bias
        self.layer: Any = None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.t() if self.turned else self.weight
        if not (torch.is_grad_enabled() or self.of.reads):
            return F.linear(x, weight, self.bias)
        base, adapter, apart = self.layer
        a, b = base.lora_A[adapter].weight, base.lora_B[adapter].weight
        if apart:
            weight = base.base_layer.weight.t() if self.turned else base.base_layer.weight
        y = _Product.apply(x.flatten(0, -2), weight, a, b, base.scaling[adapter], apart).unflatten(0, x.shape[:-1])
        return y if self.bias is None else y + self.bias


class DrawingModel:
    """A copy of a base that follows a policy's weights. It is made before the base gets its adapter."""

    def __init__(self, base: Any, adapted: Sequence[str]) -> None:
        """`adapted`: names of the modules that the adapter will be on; only their weights are copied."""
        self.adapted = adapted
        # Whether a pass without gradients reads as one that learns does.
        self.reads = False
        own = {id(base.get_submodule(name).weight) for name in adapted}
        shared = [t for t in [*base.parameters(), *base.buffers()] if id(t) not in own]
        self.model = copy.deepcopy(base, {id(t): t for t in shared})
        for name in adapted:
            module = self.model.get_submodule(name)
            module.weight.requires_grad_(False)
            parent, _, last = name.rpartition(".")
            setattr(self.model.get_submodule(parent), last, _Adapted(module, self))

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """The plain model, for a pass whose log-probabilities are compared with those of a pass that learns."""
        self.reads = True
        try:
            yield self.model
        finally:
            self.reads = False

    def fits(self, policy: Any) -> bool:
        """Whether the adapter of `policy` is on what was copied alone. PEFT puts that of some mixtures on their packed experts too."""
        return {name for name, module in policy.get_base_model().named_modules() if isinstance(module, LoraLayer)} == set(self.adapted)

    def follow(self, policy: Any, adapter: str) -> Any:
        """The plain model with the weights of `policy` (a PeftModel on the base) under its adapter as they are now."""
        base = policy.get_base_model()
        with torch.no_grad():
            for name in self.adapted:
                layer, module = base.get_submodule(name), self.model.get_submodule(name)
                own = layer.base_layer.weight
                torch.add(own, layer.get_delta_weight(adapter).to(own.dtype), out=module.weight)
                # In a tuple, so that the layer is not a part of this module.
                module.layer = (layer, adapter, own.dtype != torch.float32)
        return self.model
