"""Attention of a bfloat16 model on a CPU goes back by plain products, in a sixth of the time. (ours)

The way forth is the library's fused kernel, so that a pass with gradients reads as one without. Its way back takes eight times as long as
the way forth in bfloat16. Written as products of matrices, with the weights computed anew, it takes about one and a half times as long:
with S = s Q K^T and P = softmax(S), dV = P^T dY, dS = P (dP - sum(P dP)) where dP = dY V^T, dQ = s dS K and dK = s dS^T Q. The query heads
that share a head of keys are rows of one product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

# What some families give, which the products do not know.
MORE = ("position_bias", "cache", "softcap", "s_aux", "output_attentions")


class _Attention(torch.autograd.Function):
    """Queries (b, h, n, d), keys and values (b, k, m, d) of k heads that divide h, a mask (b, 1, n, m) of what counts -> (b, n, h, d)."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, module: Any, scale: float, causal: bool
    ) -> Tensor:
        ctx.scale = scale
        counts = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()[None, None] if causal else mask
        ctx.save_for_backward(query, key, value, counts)
        return sdpa_attention_forward(module, query, key, value, mask, scaling=scale, is_causal=causal)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, counts = ctx.saved_tensors
        b, _, n, _ = query.shape
        rows = (b, key.shape[1], -1, query.shape[3])
        scaled = (query * ctx.scale).reshape(rows)
        dy = gradients[0].transpose(1, 2).reshape(*rows[:3], value.shape[3])
        scores = (scaled @ key.transpose(-1, -2)).unflatten(2, (-1, n))
        if counts is not None:
            # A row of padding, for which nothing counts, gets no gradient from above, and gives none.
            scores.masked_fill_(~counts.unsqueeze(2), torch.finfo(scores.dtype).min)
        shares = scores.softmax(dim=-1).flatten(2, 3)
        d_scores = torch._softmax_backward_data(dy @ value.transpose(-1, -2), shares, -1, shares.dtype)
        d_query = (d_scores @ key).mul_(ctx.scale).view(query.shape)
        return d_query, d_scores.transpose(-1, -2) @ scaled, shares.transpose(-1, -2) @ dy, None, None, None, None


def _forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """As the library asks for it: queries (b, h, n, d), keys and values (b, k, m, d) -> (b, n, h, d) and no weights."""
    n, m = query.shape[2], key.shape[2]
    causal = attention_mask is None and n > 1 and (is_causal if is_causal is not None else getattr(module, "is_causal", True))
    learns = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    coarse = query.device.type == "cpu" and query.dtype == key.dtype == value.dtype == torch.bfloat16
    plain = attention_mask is None or (attention_mask.dtype == torch.bool and attention_mask.shape[1] == 1)
    known = plain and not dropout and (not causal or n == m)
    if learns and coarse and known and all(more.get(name) is None for name in MORE):
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return _Attention.apply(query, key, value, attention_mask, module, scale, bool(causal)), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, is_causal, **more)


def register() -> None:
    """Have the library use it wherever it uses torch's fused attention."""
    AttentionInterface.register("sdpa", _forward)
