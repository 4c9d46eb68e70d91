"""Models: where they come from, how they are loaded and told apart, and how a conversation is written for them."""

from moslim_core.models.chat import (
    context,
    end_tokens,
    layer_stack,
    load_chat_model,
    load_chat_tokenizer,
    load_config,
)
from moslim_core.models.devices import DeviceName, DType, pick_device, pick_dtype
from moslim_core.models.sources import PACKAGED, is_fetched, pinned, resolve

__all__ = [
    "PACKAGED",
    "DType",
    "DeviceName",
    "context",
    "end_tokens",
    "is_fetched",
    "layer_stack",
    "load_chat_model",
    "load_chat_tokenizer",
    "load_config",
    "pick_device",
    "pick_dtype",
    "pinned",
    "resolve",
]
