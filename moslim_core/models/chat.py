"""A chat model and its tokenizer, ready to answer; and what a model's configuration says about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from moslim_core.errors import UserError
from moslim_core.models import templates
from moslim_core.models.devices import DeviceName, DType, pick_device, pick_dtype
from moslim_core.models.loading import from_pretrained, load_tokenizer, load_weights, require_vocabulary
from moslim_core.models.sources import resolve
from moslim_core.sampling import make_neutral

if TYPE_CHECKING:
    from torch import nn


def load_chat_model(name: str, cache: Path, dtype: DType = "auto", device: DeviceName = "auto", weights: bool = True) -> tuple[Any, Any]:
    """(causal language model in eval mode on its device, tokenizer padding on the left, with a chat template).

    Its generation settings are neutral (sampling.py) and end at `end_tokens`. Without `weights` the model is as large, but empty: names
    and shapes are checked all the same. Raises UserError where it is damaged, not whole, or no chat model.
    """
    from transformers import AutoModelForCausalLM

    where = pick_device(device)
    source = resolve(name, cache)
    tokenizer = load_chat_tokenizer(name, cache)
    options = {"dtype": pick_dtype(dtype, where, cache)} if weights else {"device_map": "meta"}
    model: Any = load_weights(AutoModelForCausalLM, source, name, **options)
    causal = any(getattr(module, "is_causal", False) for module in model.modules())
    if getattr(model.config.get_text_config(), "is_decoder", None) is False and not causal:
        # Loaded as a language model it sees what comes after a token. GPT-NeoX says so too, but is causal all the same.
        raise UserError(f"model {name!r} is an encoder ({model.config.model_type}), which writes no answers.\nGive a chat model.")
    require_vocabulary(tokenizer, model, source, templates.example_ids(tokenizer))
    make_neutral(model, end_tokens(model, tokenizer), tokenizer.pad_token_id)
    text = model.config.get_text_config()
    if getattr(text, "output_router_logits", False):
        # Left on by who trained a mixture: its balance is no part of any loss here, and needs a mask as long as what is read.
        text.output_router_logits = False
    return (model.to(where) if weights else model).eval(), tokenizer


def load_chat_tokenizer(name: str, cache: Path) -> Any:
    """The tokenizer of a chat model, padding on the left, its chat template with options set for good (templates.py).

    Raises UserError where it has no chat template that works, one that begins thoughts without an end, or no token ends an answer.
    """
    source = resolve(name, cache, weights=False)
    tokenizer = load_tokenizer(source, name)
    templates.settle(tokenizer, name)
    templates.require_conversation(tokenizer)
    templates.thoughts(tokenizer)
    if tokenizer.eos_token is None:
        end = templates.turn_end(tokenizer)
        if end is None:
            raise UserError(
                f"{source}: the tokenizer names no end token, and the chat template ends a turn with none.\n"
                "Set eos_token in its tokenizer_config.json."
            )
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: the tokenizer's, those that the model's generation settings name, and the template's at a turn's end."""
    named = model.generation_config.eos_token_id
    ends = [tokenizer.eos_token_id, *(named if isinstance(named, list) else [named]), templates.turn_end(tokenizer)]
    for token in ends:
        if not (token is None or (isinstance(token, int) and not isinstance(token, bool) and token >= 0)):
            raise UserError(f"generation_config.json: eos_token_id={token!r} is no token.\nWrite its number, or a list of numbers.")
    return list(dict.fromkeys(token for token in ends if token is not None))


def load_config(name: str, cache: Path) -> Any:
    """The configuration of a model."""
    from transformers import AutoConfig

    return from_pretrained(AutoConfig, resolve(name, cache, weights=False), name)


def context(config: Any) -> int:
    """How many tokens the text part of a model reads at once; 10^9 where its configuration does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or 10**9


def layer_stack(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """(name, transformer layers) of a model's text part: the list of as many modules as its configuration has layers.

    Lists within lists (the experts of a mixture) and those of other parts (an image encoder) are none.
    """
    from torch import nn

    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    outer = {name: module for name, module in lists.items() if not any(name.startswith(f"{other}.") for other in lists)}
    whole: Any = model
    text = whole.get_decoder() if hasattr(model, "get_decoder") else whole
    own = {id(module) for module in text.modules()}
    depth = getattr(whole.config.get_text_config(), "num_hidden_layers", None)
    return max(outer.items(), key=lambda item: (id(item[1]) in own, len(item[1]) == depth, len(item[1])))
