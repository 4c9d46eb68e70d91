"""Log-probabilities and gradients without all logits at once are those of the plain pass, for every family whose logits allow it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM

from moslim_core import models
from moslim_core.policy import output_layer
from moslim_core.policy.log_probs import completion_log_probs
from moslim_core.policy.output_layer import chosen_log_probs, plain_output_layer
from tests.core.family_models import OPTIONS, make_family

PROMPTS = [[3, 4, 5, 6, 7], [3, 4, 5, 6, 8], [9, 10]] * 2


def answers() -> tuple[torch.Tensor, torch.Tensor]:
    mask = (torch.arange(9) < torch.tensor([9, 4, 1, 7, 9, 2]).unsqueeze(1)).long()
    return torch.randint(3, 60, mask.shape, generator=torch.Generator().manual_seed(0)) * mask, mask


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("together", [1, 3, 100])
def test_pieces_of_any_size_give_the_library_s_numbers(
    together: int, bias: bool, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer, chosen = nn.Linear(8, 50, bias=bias), torch.randint(0, 50, (7,))
    monkeypatch.setitem(output_layer.LOGITS, "cpu", together * 50)
    states, plain = (torch.linspace(-4, 4, 56).view(7, 8).requires_grad_() for _ in range(2))
    found = chosen_log_probs(states, layer, chosen, temperature)
    expected = (layer(plain) / temperature).log_softmax(dim=1).gather(1, chosen.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(found, expected)
    for log_probs in (found, expected):
        (log_probs * torch.linspace(-1, 3, 7)).sum().backward()
    assert plain.grad is not None and plain.grad.abs().max() > 0.1
    torch.testing.assert_close(states.grad, plain.grad)
    assert layer.weight.grad is not None, "the plain pass alone gives the layer a gradient"


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("family", OPTIONS)
def test_a_family_s_numbers_and_gradients(family: str, share: bool, tiny_chat: Path, tmp_path: Path) -> None:
    model, _ = models.load_chat_model(str(make_family(family, tiny_chat, tmp_path / "base")), tmp_path, "float32", "cpu")
    output = plain_output_layer(model)
    # Falcon-H1 multiplies its logits.
    assert (output is None) == (family == "falcon_h1")
    ids, mask = answers()
    learning = [p for name, p in model.named_parameters() if ".1." in name]
    found = [completion_log_probs(model, PROMPTS, ids, mask, 0.7, share=share, output=layer) for layer in (None, output)]
    assert found[0].log_probs.std() > 0.1 and found[1].states is None
    torch.testing.assert_close(found[1].log_probs, found[0].log_probs, atol=1e-4, rtol=1e-4)
    assert found[1].entropy == pytest.approx(found[0].entropy, rel=1e-4)
    weights = torch.linspace(-1, 2, ids.numel()).view(ids.shape)
    gradients = [torch.autograd.grad((read.log_probs * weights).sum(), learning, allow_unused=True) for read in found]
    assert any(g is not None and g.abs().max() > 0.1 for g in gradients[0])
    for plain, pieces in zip(*gradients, strict=True):
        assert (plain is None) == (pieces is None)
        if plain is not None and pieces is not None:
            torch.testing.assert_close(pieces, plain, atol=1e-3, rtol=1e-3)


def test_a_soft_cap_on_logits_is_noticed() -> None:
    torch.manual_seed(0)
    small: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    for cap in (2.0, None):
        model = Gemma2ForCausalLM(Gemma2Config(vocab_size=40, head_dim=8, num_key_value_heads=1, final_logit_softcapping=cap, **small))
        assert (plain_output_layer(model) is None) == (cap is not None)
