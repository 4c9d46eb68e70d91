"""The reward model on the policy's own base: the same scores as alone, and a policy that learns as if it were not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file

from moslim_core import models
from moslim_core.models.identity import identify
from moslim_core.policy import training
from moslim_core.policy.shared_base import SharedBackbone, active, attach, base_of, load_heads
from moslim_core.preferences import PreferenceSchema
from moslim_core.reward.model import ADAPTER, create
from moslim_core.reward.scorer import RewardScorer
from moslim_core.training.adapters import adapter_config
from tests.core.policy.runs import PREFERENCES, STEPS, metrics, train

QUESTIONS, ANSWERS = ["How is rain?", "How is snow?", "Bread?"], ["warm and short", "a cold, long answer about the river", "good"]


@pytest.fixture(scope="module")
def adapted_reward(tiny_chat: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model that is an adapter of the tiny chat model, as the reward stage saves one, with an adapter that matters."""
    folder = tmp_path_factory.mktemp("adapted-reward")
    torch.manual_seed(1)
    model, tokenizer = create(str(tiny_chat), PreferenceSchema.model_validate(PREFERENCES), None, 64)
    adapted: Any = get_peft_model(model.backbones[0], adapter_config(model.backbones[0], 4, None, "FEATURE_EXTRACTION"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    adapted.save_pretrained(folder / ADAPTER)
    model.backbones[0] = adapted.merge_and_unload()
    for head in model.heads:
        head.linear.weight.data *= 20
    model.config.adapter_of = identify(str(tiny_chat), folder).id.model_dump()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def policy_of(base: Path) -> Any:
    model, _ = models.load_chat_model(str(base), base, "float32", "cpu")
    return get_peft_model(model, adapter_config(model, 2, 1, "CAUSAL_LM"))


def test_scores_are_those_of_the_reward_model_alone(adapted_reward: Path, tiny_chat: Path) -> None:
    alone = RewardScorer.load(adapted_reward)(QUESTIONS, ANSWERS)
    scorer, backbone = load_heads(adapted_reward, "cpu")
    policy = policy_of(tiny_chat)
    for name, weight in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)  # whatever the policy has learnt plays no part
    attach(backbone, policy, adapted_reward)
    found = scorer(QUESTIONS, ANSWERS)
    for name in alone:
        assert np.allclose(alone[name], found[name], atol=1e-5)
    # Its own weights are heads only: the rest is the policy's.
    assert sum(p.numel() for p in scorer.model.parameters()) == sum(p.numel() for p in scorer.model.heads.parameters())
    assert base_of(adapted_reward) == identify(str(tiny_chat), adapted_reward).id.digest


def test_policy_is_left_as_it_was(adapted_reward: Path, tiny_chat: Path) -> None:
    scorer, backbone = load_heads(adapted_reward, "cpu")
    policy = policy_of(tiny_chat)
    learning = {name for name, p in policy.named_parameters() if p.requires_grad}
    ids = torch.tensor([[5, 6, 7]])
    before = policy(ids).logits
    attach(backbone, policy, adapted_reward)
    policy.train()
    graph = policy(ids).logits  # the reward model may be called while the policy's graph is alive
    scorer(QUESTIONS, ANSWERS)
    assert policy.training and policy.active_adapter == "default"
    assert {name for name, p in policy.named_parameters() if p.requires_grad} == learning
    graph.sum().backward()
    assert any(p.grad is not None and p.grad.any() for name, p in policy.named_parameters() if name in learning)
    assert torch.equal(policy.eval()(ids).logits, before)
    with pytest.raises(RuntimeError, match="from inside"), active(policy, "reward"):
        raise RuntimeError("from inside")
    assert policy.active_adapter == "default"


@pytest.mark.parametrize("optimiser", ["rloo", "online_dpo", "ppo"])
def test_whole_runs_share_the_base(
    optimiser: str, adapted_reward: Path, tiny_chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbones: list[SharedBackbone] = []
    monkeypatch.setattr(training, "attach", lambda backbone, *rest: (backbones.append(backbone), attach(backbone, *rest)))
    train(tmp_path, tiny_chat, adapted_reward, "output", {"standardisation": "none"}, optimiser=optimiser, beta=0.1)
    found = metrics(tmp_path, "output")
    assert len(found) == STEPS and abs(found[1]["kl"]) < 1e-6
    (backbone,) = backbones
    (policy,) = backbone.policy
    reward = {name: p for name, p in policy.named_parameters() if ".reward." in name}
    saved = load_file(adapted_reward / ADAPTER / "adapter_model.safetensors")
    assert len(reward) == len(saved) > 0
    assert all(
        torch.equal(a, b)
        for a, b in zip(sorted(map(_flat, reward.values()), key=_key), sorted(map(_flat, saved.values()), key=_key), strict=True)
    )
    # The policy is saved without the reward model's adapter.
    assert sorted(p.name for p in (tmp_path / "output").iterdir() if p.is_dir()) == []
    assert any(v.any() for k, v in load_file(tmp_path / "output" / "adapter_model.safetensors").items() if "lora_B" in k)


def _flat(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().flatten()


def _key(weight: torch.Tensor) -> tuple[int, float]:
    return len(weight), float(weight.sum())
