"""LoRA adapters: on every linear map of a model's last layers, or of all of them."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from moslim_core.errors import UserError
from moslim_core.models import layer_stack


def adapter_config(model: nn.Module, rank: int, layers: int | None, task: Literal["CAUSAL_LM", "FEATURE_EXTRACTION"]) -> Any:
    """A PEFT configuration with alpha = 2 rank and no dropout. Raises UserError if the model has fewer than `layers` layers."""
    from peft import LoraConfig

    stack_name, stack = layer_stack(model)
    if layers is not None and layers > len(stack):
        raise UserError(f"policy.lora_layers={layers}, but the model has {len(stack)} layers.\nGive at most {len(stack)}.")
    first = len(stack) - (layers or len(stack))
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=[
            f"{stack_name}.{index}.{name}"
            for index in range(first, len(stack))
            for name, module in stack[index].named_modules()
            if isinstance(module, nn.Linear)
        ],
        task_type=task,
    )
