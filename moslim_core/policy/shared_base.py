"""One set of base weights for policy, reference and reward model: the reward model's adapter and heads on the policy's own base. (ours)

It works where the reward model was trained as an adapter of the policy's base. Otherwise the reward model keeps its own weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from moslim_core.models.files import check_folder
from moslim_core.models.loading import require_whole
from moslim_core.policy.artifact import ADAPTER as POLICY
from moslim_core.policy.shared_prefix import can_share, layout_for, read_prompts
from moslim_core.reward.model import ADAPTER, MultiHeadRewardModel, read_config, reward_tokenizer
from moslim_core.reward.scorer import RewardScorer

NAME = "reward"


class SharedBackbone(nn.Module):
    """A policy's base, seen through the reward model's adapter; the policy's adapter, mode and gradients are as before afterwards.

    `last`: only what follows a text's last token is asked for. Then what texts begin with, the template and a question with its many
    answers, is read once.
    """

    def __init__(self, last: bool = False) -> None:
        super().__init__()
        self.last = last
        # In a list, so that the policy is not a part of the reward model.
        self.policy: list[Any] = []

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **inputs: torch.Tensor) -> Any:
        (policy,) = self.policy
        with torch.no_grad(), active(policy, NAME):
            if not self.last or not can_share(policy):
                model = policy.get_base_model().base_model
                return model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **inputs)
            texts = [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
            read = read_prompts(policy, layout_for(policy, texts, 0), states=True)
            assert read.states is not None
            # At whatever place the last token is looked for.
            return BaseModelOutput(last_hidden_state=read.states[read.owner].expand(-1, input_ids.shape[1], -1))


@contextmanager
def active(policy: Any, adapter: str) -> Iterator[None]:
    """`policy` in eval mode under another of its adapters."""
    was_training, was_active = policy.training, policy.active_adapter
    policy.eval()
    policy.base_model.set_adapter(adapter)
    try:
        yield
    finally:
        policy.base_model.set_adapter(was_active)
        policy.train(was_training)


def base_of(reward_model: Path) -> str | None:
    """Digest of the model that a reward model of this folder is an adapter of; None where it has weights of its own."""
    of = read_config(reward_model).adapter_of
    return of["digest"] if of else None


def load_heads(reward_model: Path, device: str) -> tuple[RewardScorer, SharedBackbone]:
    """(scorer without weights but for its heads, its backbone, which `attach` gives a policy)."""
    config = read_config(reward_model)
    check_folder(reward_model)
    with torch.device("meta"):
        model = MultiHeadRewardModel(config)
    backbone = SharedBackbone(last=config.pooling == "last")
    model.backbones = nn.ModuleList([backbone])
    weights = {k: v for k, v in load_file(reward_model / "model.safetensors").items() if not k.startswith("backbones.")}
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    misshapen = [name for name in weights.keys() & shapes.keys() if weights[name].shape != shapes[name]]
    require_whole(str(reward_model), shapes.keys() - weights.keys(), weights.keys() - shapes.keys(), misshapen)
    model.load_state_dict(weights, assign=True)
    placed: Any = model
    scorer = RewardScorer(placed.to(device), reward_tokenizer(reward_model, config))
    return scorer, backbone


def attach(backbone: SharedBackbone, policy: Any, reward_model: Path) -> None:
    """Give a policy (a PeftModel on the same base) the reward model's adapter beside its own, which stays the active one."""
    folder = reward_model / ADAPTER
    base = policy.get_base_model()
    prefix = f"{base.base_model_prefix}."
    check_folder(folder)
    config: Any = LoraConfig.from_pretrained(str(folder))
    # Trained on the bare transformer, used inside the model with its output layer: one name more in each path. PEFT shortens long
    # lists of paths to their last names, which fit both.
    config.target_modules = {prefix + name if "." in name else name for name in config.target_modules}
    config.task_type, config.inference_mode = "CAUSAL_LM", True
    # In the base's dtype: casts and products in float32 took a third of the scoring.
    policy.add_adapter(NAME, config, autocast_adapter_dtype=False)
    root = "base_model.model."
    weights = {root + prefix + k.removeprefix(root): v for k, v in load_file(folder / "adapter_model.safetensors").items()}
    unmatched: Any = set_peft_model_state_dict(policy, weights, adapter_name=NAME)
    require_whole(f"{folder}, for the policy's base,", [k for k in unmatched.missing_keys if f".{NAME}." in k], unmatched.unexpected_keys)
    policy.set_adapter(POLICY)
    backbone.policy[:] = [policy]
