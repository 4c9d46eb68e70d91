"""Tiny models on disk that odd inputs damage: made once, copied for each."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

TURN = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
TEMPLATE = "{% for m in messages %}" + TURN + "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
PREFERENCES = [{"name": "warmth", "levels": ["cold", "neutral", "warm"]}]


@cache
def home() -> Path:
    """Where they are; also the model cache, which knows where the base of a policy lies."""
    return Path(tempfile.mkdtemp(prefix="odd-models-"))


@cache
def _chat() -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|pad|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    bpe = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate([*specials, *letters])}, merges=[]))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.add_special_tokens(specials[:3])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|im_end|>")
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=256, initializer_range=0.2, bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    folder = home() / "chat"
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@cache
def _reward() -> Path:
    from moslim_core.preferences import PreferenceSchema
    from moslim_core.reward.model import create

    model, tokenizer = create(str(_chat()), PreferenceSchema.model_validate(PREFERENCES), None, 64)
    folder = home() / "reward"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@cache
def _policy() -> Path:
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from moslim_core.models.identity import identify
    from moslim_core.training.adapters import adapter_config

    base = AutoModelForCausalLM.from_pretrained(_chat())
    folder = home() / "policy"
    get_peft_model(base, adapter_config(base, 2, None, "CAUSAL_LM")).save_pretrained(folder)
    card = {
        "base": identify(str(_chat()), home()).id.model_dump(), "preferences": PREFERENCES, "placement": "user_suffix",
        "optimiser": "rloo", "steps": 1, "max_new_tokens": 4, "mapping": {}, "mapping_state": {}, "held_out": [],
    }  # fmt: skip
    (folder / "moslim_policy.json").write_text(json.dumps(card))
    return folder


def chat(folder: Path) -> Path:
    """A copy of the chat model to damage."""
    return Path(shutil.copytree(_chat(), folder / "chat"))


def reward(folder: Path) -> Path:
    """A copy of the reward model to damage."""
    return Path(shutil.copytree(_reward(), folder / "reward"))


def policy(folder: Path) -> Path:
    """A copy of the policy to damage."""
    return Path(shutil.copytree(_policy(), folder / "policy"))


def change_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Read an object from a file, change it in place, write it back."""
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def change_tensors(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """The same for the tensors of a safetensors file."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
