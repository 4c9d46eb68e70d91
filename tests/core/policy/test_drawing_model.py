"""The plain model that answers are drawn from says what the policy says, follows it, and shares all that the adapter leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model

from moslim_core import models
from moslim_core.policy.artifact import ADAPTER
from moslim_core.policy.drawing_model import DrawingModel
from moslim_core.policy.shared_prefix import generate_completions
from moslim_core.sampling import generation_config
from moslim_core.training.adapters import adapter_config
from tests.core.family_models import make_family

PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]


def made(family: str, tiny_chat: Path, folder: Path, dtype: Any = "float32") -> tuple[Any, DrawingModel, dict[str, torch.Tensor]]:
    """(policy, drawing model, the base's weights as they were)."""
    base, _ = models.load_chat_model(str(make_family(family, tiny_chat, folder)), folder, dtype, "cpu")
    before = {name: parameter.detach().clone() for name, parameter in base.named_parameters()}
    config = adapter_config(base, 2, 1, "CAUSAL_LM")
    drawing = DrawingModel(base, sorted(config.target_modules))
    return get_peft_model(base, config, autocast_adapter_dtype=dtype == "float32"), drawing, before


def learn(policy: Any, seed: int) -> None:
    torch.manual_seed(seed)
    for name, parameter in policy.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "qwen2"])
def test_greedy_answers_are_the_policy_s(family: str, tiny_chat: Path, tmp_path: Path) -> None:
    policy, drawing, before = made(family, tiny_chat, tmp_path)
    config = generation_config([2], 0, 0.0, max_new_tokens=8)
    assert drawing.fits(policy)
    said = []
    for seed in (0, 1):
        learn(policy, seed)
        plain = drawing.follow(policy, ADAPTER)
        assert not any(
            p.requires_grad for p in plain.parameters() if any(p is module.weight for module in map(plain.get_submodule, drawing.adapted))
        )
        said.append(generate_completions(plain, PROMPTS, config))
        assert said[-1] == generate_completions(policy, PROMPTS, config)
        with torch.no_grad():
            ids = torch.tensor([[5, 6, 7, 8, 9]])
            torch.testing.assert_close(plain(ids).logits, policy.eval()(ids).logits, atol=1e-3, rtol=1e-4)
    assert said[0] != said[1], "it follows"
    base = policy.unload()
    assert all(torch.equal(parameter, before[name]) for name, parameter in base.named_parameters()), "the base stays what it was"


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "qwen2"])
def test_what_the_adapter_leaves_alone_is_shared(family: str, tiny_chat: Path, tmp_path: Path) -> None:
    policy, drawing, _ = made(family, tiny_chat, tmp_path)
    base = policy.unload()
    own = {f"{name}.weight" for name in drawing.adapted}
    kept = dict(base.named_parameters())
    copied = {name for name, p in drawing.model.named_parameters() if p.data_ptr() != kept[name].data_ptr()}
    assert copied == own and drawing.model.get_input_embeddings().weight is base.get_input_embeddings().weight


def test_mixtures_whose_experts_peft_adapts_are_drawn_from_as_they_are(tiny_chat: Path, tmp_path: Path) -> None:
    policy, drawing, _ = made("qwen3_next", tiny_chat, tmp_path)
    assert not drawing.fits(policy)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_in_bfloat16_a_pass_without_gradients_reads_as_one_that_learns(family: str, tiny_chat: Path, tmp_path: Path) -> None:
    """Else the ratio of an answer's probabilities before and after is not 1 where nothing has been learnt yet."""
    policy, drawing, _ = made(family, tiny_chat, tmp_path, "bfloat16")
    learn(policy, 0)
    plain, ids = drawing.follow(policy, ADAPTER), torch.tensor([[5, 6, 7, 8, 9]])
    learns = plain(ids).logits.detach()
    with torch.no_grad():
        with drawing.reading() as read:
            assert torch.equal(read(ids).logits, learns)
        assert not torch.equal(plain(ids).logits, learns), "to draw, the sum is near enough"
