"""Tiny random models of many families, each with the tokenizer and chat template of the tiny chat model unless it says otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
MIXTURE = {"num_local_experts": 3, "num_experts_per_tok": 2}
HYBRID = {
    "layer_types": ["linear_attention", "full_attention"],
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 2,
    "num_experts": 3,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
GEMMA3 = {"head_dim": 8, "sliding_window": 64, "query_pre_attn_scalar": 8}
VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
}  # fmt: skip
# What the whole path is tried with.
FAMILIES = ("llama", "qwen2", "qwen3", "phi", "mixtral", "gemma3_text", "gemma3", "gpt2", "qwen3_next")
# Those that keep a state which can't be taken apart by rows.
RECURRENT = ("qwen3_next", "qwen3_5_text", "lfm2", "falcon_h1")
OPTIONS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 8},
    "phi": {},
    "mixtral": MIXTURE,
    "gemma3_text": GEMMA3,
    "gemma3": {"text_config": COMMON | GEMMA3, "vision_config": VISION, "mm_tokens_per_image": 4},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "initializer_range": 0.2},
    "qwen3_next": HYBRID,
    "qwen3_5_text": HYBRID,
    "falcon_h1": {
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 8,
        "ssm_multipliers": [0.5, 0.6, 0.7, 0.8, 0.9],
        "lm_head_multiplier": 0.5,
    },
    "gpt_neox": {},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
}
WHOLE = ("gemma3", "gpt2")


def make_family(family: str, tiny_chat: Path, folder: Path, **generation: Any) -> Path:
    """Save a random model of `family` in `folder`, with `generation` as its own generation settings; gives the folder."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_chat)
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    size = {"vocab_size": len(tokenizer), **ends}
    options = dict(OPTIONS[family])
    if family == "gemma3":
        options["text_config"] = options["text_config"] | size
        options |= {"image_token_index": 0, "boi_token_index": 1, "eoi_token_index": 2}
    else:
        options = (options if family in WHOLE else COMMON | options) | size
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**options))
    model.generation_config = GenerationConfig(**ends, **generation)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert AutoConfig.from_pretrained(folder).model_type == family
    return folder
