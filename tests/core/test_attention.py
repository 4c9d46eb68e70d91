"""Attention's way back by plain products: the library's gradients, in every form that the families here ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AttentionInterface, BertConfig, BertModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from moslim_core import models
from moslim_core.models import attention
from tests.core.family_models import make_family


class Module(torch.nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups


def masks(b: int, n: int, m: int) -> dict[str, torch.Tensor | None]:
    causal = torch.ones(n, m, dtype=torch.bool).tril(m - n).expand(b, 1, n, m)
    padded = causal.clone()
    padded[0, :, :, 0] = False
    padded[0, :, 0, 1] = True
    return {"none": None, "causal": causal, "padded": padded, "window": causal & ~causal.tril(m - n - 3), "keys": padded[:, :, -1:]}


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("kind", ["none", "causal", "padded", "window", "keys"])
@pytest.mark.parametrize(("n", "m"), [(5, 5), (4, 7), (1, 6)])
def test_gradients_are_those_of_the_formula(heads: int, key_heads: int, kind: str, n: int, m: int) -> None:
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(2, h, length, 8, dtype=torch.float64, requires_grad=True) for h, length in ((heads, n), (key_heads, m), (key_heads, m))
    )
    mask, causal = masks(2, n, m)[kind], kind == "none" and n == m
    module = Module(heads // key_heads)
    assert torch.autograd.gradcheck(lambda *qkv: attention._Attention.apply(*qkv, mask, module, 0.3, causal), (q, k, v))
    plain = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3, is_causal=causal, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(attention._Attention.apply(q, k, v, mask, module, 0.3, causal), plain)


def gradients(model: Any, **inputs: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    states = model(**inputs, output_hidden_states=True).hidden_states[-1].float()
    states = states[inputs["attention_mask"].bool()]
    (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
    return states.detach(), {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}


def both_ways(model: Any, monkeypatch: pytest.MonkeyPatch, **inputs: Any) -> int:
    """Hold the model's gradients by the products against those of the library's kernel; how often the products were used."""
    used = []
    apply = attention._Attention.apply
    monkeypatch.setattr(attention._Attention, "apply", lambda *given: used.append(1) or apply(*given))
    attention.register()
    states, found = gradients(model, **inputs)
    AttentionInterface.register("sdpa", sdpa_attention_forward)
    try:
        known, expected = gradients(model, **inputs)
    finally:
        attention.register()
    assert torch.equal(states, known), "the way forth is the library's"
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        # Of gradients that are rounded to 8 bits in every layer.
        assert (found[name] - gradient).norm() <= 0.05 * gradient.norm() + 1e-4 * sum(g.norm() for g in expected.values()), name
    return len(used)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "qwen2", "qwen3", "mixtral", "gpt_neox", "lfm2"])
def test_a_chat_model_in_bfloat16_learns_what_the_library_s_kernel_teaches(
    family: str, tiny_chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = models.load_chat_model(str(make_family(family, tiny_chat, tmp_path)), tmp_path, "bfloat16", "cpu")
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [0, 0, 7, 8, 9, 11]])
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    assert both_ways(model, monkeypatch, input_ids=ids, attention_mask=mask)
    assert both_ways(model, monkeypatch, input_ids=ids[:1], attention_mask=mask[:1])


def test_an_encoder_reads_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    config = BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    torch.manual_seed(0)
    model = BertModel(config, add_pooling_layer=False).to(torch.bfloat16).eval()
    ids = torch.tensor([[5, 6, 7, 8], [7, 8, 0, 0]])
    assert both_ways(model, monkeypatch, input_ids=ids, attention_mask=torch.tensor([[1] * 4, [1, 1, 0, 0]]))
    assert both_ways(model, monkeypatch, input_ids=ids[:1], attention_mask=torch.ones(1, 4, dtype=torch.long))


@pytest.mark.parametrize("case", ["float32", "no gradient", "dropout", "a float mask"])
def test_all_else_is_the_library_s(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention._Attention, "apply", lambda *given: pytest.fail("by products"))
    dtype = torch.float32 if case == "float32" else torch.bfloat16
    q = torch.randn(1, 2, 4, 8, dtype=dtype, requires_grad=case != "no gradient")
    mask = torch.zeros(1, 1, 4, 4, dtype=dtype) if case == "a float mask" else None
    y, _ = attention._forward(Module(1), q, q.detach(), q.detach(), mask, dropout=0.5 if case == "dropout" else 0.0)
    assert y.shape == (1, 4, 2, 8)
