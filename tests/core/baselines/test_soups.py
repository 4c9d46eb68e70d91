"""Merged experts: Rewarded Soups, Personalized Soups and Bone Soups, pinned on tiny models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save_file

from moslim_core import models
from moslim_core.baselines import bone_soups, rewarded_soups
from moslim_core.baselines.merging import averaged, exact, expert, interpolated, load_experts
from moslim_core.baselines.method import Context
from tests.core.baselines.weights import logits, weights_of

Make = Callable[..., Context]


@pytest.fixture
def soups(context: Make) -> rewarded_soups.RewardedSoups:
    method = rewarded_soups.RewardedSoups(context())
    method.train()
    return method


def test_soups_change_with_their_weights_and_are_what_was_published(soups: rewarded_soups.RewardedSoups, tiny_chat: Path) -> None:
    folders = [expert.folder for expert in soups.experts]
    one, other = (weights_of(folder) for folder in folders)

    def experts() -> torch.nn.Module:
        return load_experts(models.load_chat_model(str(tiny_chat), tiny_chat, "float32", "cpu")[0], folders)

    at = {w: logits(interpolated(experts(), [w, 1 - w])) for w in (0.0, 0.25, 0.5, 1.0)}
    assert (at[0.0] - at[0.5]).abs().max() > 1e-4 and (at[1.0] - at[0.5]).abs().max() > 1e-4
    # By hand: scaling is alpha / r = 2.
    base = models.load_chat_model(str(tiny_chat), tiny_chat, "float32", "cpu")[0]
    golden = {
        (rule, w): models.load_chat_model(str(tiny_chat), tiny_chat, "float32", "cpu")[0]
        for rule in ("published", "exact")
        for w in (0.25, 0.5)
    }
    for key in (k for k in one if "lora_A" in k):
        up = key.replace("lora_A", "lora_B")
        name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        for w in (0.25, 0.5):
            a, b = w * one[key] + (1 - w) * other[key], w * one[up] + (1 - w) * other[up]
            golden["published", w].get_submodule(name).weight.data += 2 * b @ a
            golden["exact", w].get_submodule(name).weight.data += 2 * (w * one[up] @ one[key] + (1 - w) * other[up] @ other[key])
    for w in (0.25, 0.5):
        torch.testing.assert_close(at[w], logits(golden["published", w]), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(logits(exact(experts(), [w, 1 - w])), logits(golden["exact", w]), atol=1e-5, rtol=1e-4)
    assert (logits(golden["published", 0.5]) - logits(golden["exact", 0.5])).abs().max() > 1e-4
    assert (at[1.0] - logits(base)).abs().max() > 1e-4
    # Personalized Soups: a preference is wanted or not.
    torch.testing.assert_close(logits(averaged(experts(), [0.1, 0.9])), at[0.5])
    torch.testing.assert_close(logits(averaged(experts(), [0.0, 1.0])), at[0.0])


def test_an_adapter_that_does_not_fit_is_an_error(soups: rewarded_soups.RewardedSoups, tiny_chat: Path) -> None:
    """PEFT would only warn, and the expert be the starting model."""
    folders = [expert.folder for expert in soups.experts]
    model = load_experts(models.load_chat_model(str(tiny_chat), tiny_chat, "float32", "cpu")[0], folders)
    assert all(
        torch.equal(value, weights_of(folder)[key])
        for number, folder in enumerate(folders)
        for key, value in get_peft_model_state_dict(model, adapter_name=expert(number)).items()
    )
    save_file({f"old.{key}": value for key, value in weights_of(folders[1]).items()}, folders[1] / "adapter_model.safetensors")
    with pytest.raises(RuntimeError, match="does not fit the base"):
        load_experts(models.load_chat_model(str(tiny_chat), tiny_chat, "float32", "cpu")[0], folders)


def test_bone_soups_are_merged_so_that_their_mixtures_give_the_weights(context: Make) -> None:
    method = bone_soups.BoneSoups(context())
    assert np.allclose(method.rewards, [[0.7, 0.3], [0.3, 0.7]]) and np.allclose(bone_soups.backbones(3).sum(axis=1), 1)
    assert [e.settings.mapping.weights for e in method.experts] == [
        {"length": pytest.approx(0.7), "warmth": pytest.approx(0.3)},
        {"length": pytest.approx(0.3), "warmth": pytest.approx(0.7)},
    ]
    method.train()
    base, tokenizer = models.load_chat_model(method.context.settings.model.base, method.context.cache, "float32", "cpu")
    del tokenizer
    # B l = w at the corner: 0.7 l - 0.3 (l - 1) = 1.
    wanted = interpolated(load_experts(base, [e.folder for e in method.experts]), [1.75, -0.75])
    assert torch.allclose(logits(method.at("bone_soups", np.array([1.0, 0.0])).system.model), logits(wanted), atol=1e-5)
