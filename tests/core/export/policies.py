"""Policies with a random adapter on tiny models of several families."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from moslim_core.models.identity import identify
from tests.core.family_models import make_family

PREFERENCES: list[dict[str, Any]] = [
    {"name": "warmth", "levels": ["cold", "neutral", "warm"]},
    {"name": "safety", "levels": ["none", "some", "all"], "floor": 2},
]


def make_policy(family: str, tiny_chat: Path, folder: Path, placement: str = "user_suffix") -> Path:
    """A policy in `folder`/policy whose adapter changes its base; `folder` is the model cache that knows the base."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from moslim_core.training.adapters import adapter_config, name_base

    base = make_family(family, tiny_chat, folder / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(1)
    adapted = get_peft_model(model, adapter_config(model, 2, None, "CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(folder / "policy")
    card = {
        "base": identify(str(base), folder).id.model_dump(), "preferences": PREFERENCES, "placement": placement, "optimiser": "rloo",
        "steps": 1, "max_new_tokens": 8, "mapping": {}, "mapping_state": {}, "held_out": [],
    }  # fmt: skip
    (folder / "policy" / "moslim_policy.json").write_text(json.dumps(card))
    name_base(folder / "policy", "base")
    return folder / "policy"
