"""Adapters of one base, interpolated: m experts with (m,) weights -> one model.

PEFT's combination `linear` is none of these: it scales each factor by the square root of its weight, and so the product has cross terms
sqrt(l_i l_j) B_i A_j, which are neither the published interpolation nor its exact form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

SOUP = "soup"


def expert(number: int) -> str:
    """An adapter's name: not a bare number, which PEFT would also take out of the names of layers."""
    return f"expert{number}"


def load_experts(base: Any, folders: Sequence[Path]) -> Any:
    """`base` with the adapter of each folder, named by `expert`. Raises RuntimeError where one was not loaded in full.

    PEFT only warns of weights that found no place; the expert would then be the starting model.
    """
    model: Any = None
    for number, folder in enumerate(folders):
        config: Any = LoraConfig.from_pretrained(str(folder))
        config.inference_mode = True
        if model is None:
            model = PeftModel(base, config, adapter_name=expert(number))
        else:
            model.add_adapter(expert(number), config)
        _put(model, expert(number), load_file(folder / "adapter_model.safetensors"), str(folder))
    return model


def _put(model: Any, name: str, weights: dict[str, Any], source: str) -> None:
    wanted, given = set(get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)), set(weights)
    if wanted != given:
        raise RuntimeError(f"{source} does not fit the base: {sorted(wanted ^ given)[0]} is on one side only")
    set_peft_model_state_dict(model, weights, adapter_name=name)


def interpolated(model: Any, weights: Sequence[float]) -> Any:
    """A = sum l_i A_i and B = sum l_i B_i, as published (Rame et al. 2023, Rewarded Soups: parameters are interpolated)."""
    states = [get_peft_model_state_dict(model, adapter_name=expert(i), save_embedding_layers=False) for i in range(len(weights))]
    soup = {key: sum(w * state[key] for w, state in zip(weights, states, strict=True)) for key in states[0]}
    model.add_adapter(SOUP, model.peft_config[expert(0)])
    _put(model, SOUP, soup, "the interpolation")
    return _merged(model)


def averaged(model: Any, weights: Sequence[float]) -> Any:
    """The parameters' mean over the experts whose weight is not 0 (Jang et al. 2023, Personalized Soups: preferences are on or off)."""
    chosen = sum(w > 0 for w in weights)
    return interpolated(model, [(w > 0) / chosen for w in weights])


def exact(model: Any, weights: Sequence[float]) -> Any:
    """dW = sum l_i B_i A_i: factors side by side (PEFT's `cat`), of m times the rank."""
    model.add_weighted_adapter([expert(i) for i in range(len(weights))], list(weights), SOUP, combination_type="cat")
    return _merged(model)


def by_block(weights: Sequence[float], rank: int) -> torch.Tensor:
    """(rank, 1): the weight of each row of a factor A that has the factors of m parts one below the other."""
    return torch.tensor(weights, dtype=torch.float32).repeat_interleave(rank // len(weights)).unsqueeze(1)


def mixed(model: Any, weights: Sequence[float]) -> Any:
    """dW = sum l_i B_i A_i of m parts that are side by side in the factors of one adapter, the first."""
    state = get_peft_model_state_dict(model, adapter_name=expert(0), save_embedding_layers=False)
    factors = {key: value * by_block(weights, len(value)).to(value) if "lora_A" in key else value for key, value in state.items()}
    _put(model, expert(0), factors, "the mixture")
    return model.merge_and_unload(adapter_names=[expert(0)]).eval()


def _merged(model: Any) -> Any:
    model.set_adapter(SOUP)
    return model.merge_and_unload(adapter_names=[SOUP]).eval()


Rule = Callable[[Any, Sequence[float]], Any]
