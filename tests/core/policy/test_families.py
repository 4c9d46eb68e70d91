"""Off-the-shelf chat models of other families: each trains, is saved, loaded again and chats, with its own template's rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from moslim_core.errors import UserError
from moslim_core.policy.steerable import SteerablePolicy
from moslim_core.preferences import PreferenceSchema, require_placement
from tests.core.policy.runs import PREFERENCES, metrics, train

TURNS = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
WITH_SYSTEM = "{% for m in messages %}" + TURNS + "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
ALTERNATING = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    + TURNS
    + "{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
SYSTEM_DROPPED = "{% for m in messages if m['role'] != 'system' %}" + TURNS + "{% endfor %}"
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": (WITH_SYSTEM, {}),
    "qwen2": (WITH_SYSTEM, {"tie_word_embeddings": True}),
    "mistral": (ALTERNATING, {"sliding_window": 64}),
    "gemma2": (ALTERNATING, {"head_dim": 8, "sliding_window": 64, "query_pre_attn_scalar": 8}),
}


def make(family: str, tiny_chat: Path, folder: Path) -> Path:
    template, options = FAMILIES[family]
    tokenizer = AutoTokenizer.from_pretrained(tiny_chat)
    tokenizer.chat_template = template
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=512, initializer_range=0.2, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None, **options,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# tests/core/test_families.py takes these and others through all stages with RLOO.
@pytest.mark.parametrize(("family", "optimiser"), [(family, "ppo") for family in FAMILIES] + [("gemma2", "online_dpo")])
def test_trains_saves_reloads_and_chats(family: str, optimiser: str, tiny_chat: Path, reward_folder: Path, tmp_path: Path) -> None:
    base = make(family, tiny_chat, tmp_path / "base")
    train(tmp_path, base, reward_folder, "output", {"standardisation": "none"}, optimiser=optimiser, steps=2)
    found = metrics(tmp_path, "output")
    assert found[1]["kl"] == pytest.approx(0, abs=1e-5)
    assert found[1]["grad_norm"] > 0
    policy = SteerablePolicy.from_pretrained(tmp_path / "output", tmp_path, "float32", "cpu")
    assert isinstance(policy.chat("Rain?", {"warmth": 3}, max_new_tokens=5), str)


@pytest.mark.parametrize("template", [ALTERNATING, SYSTEM_DROPPED])
def test_placement_that_a_template_cannot_take_is_refused(template: str, tiny_chat: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_chat)
    tokenizer.chat_template = template
    schema = PreferenceSchema.model_validate(PREFERENCES)
    for placement in ("user_suffix", "user_prefix"):
        require_placement(tokenizer, schema, placement)
    with pytest.raises(UserError, match=r"policy\.placement=system, but the model's chat template takes no instruction there"):
        require_placement(tokenizer, schema, "system")


def test_conversation_that_a_template_refuses_is_a_clear_error(tiny_chat: Path, reward_folder: Path, tmp_path: Path) -> None:
    base = make("gemma2", tiny_chat, tmp_path / "base")
    train(tmp_path, base, reward_folder, "output", {"standardisation": "none"}, steps=1)
    policy = SteerablePolicy.from_pretrained(tmp_path / "output", tmp_path, "float32", "cpu")
    with pytest.raises(UserError, match="refuses a conversation of system, user: System role not supported"):
        policy.chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Rain?"}])
