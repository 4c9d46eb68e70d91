"""LoRA adapters: on every linear map of a model's last layers, or of all of them.

The experts of a mixture are no linear maps but packed tensors; its attention learns, and what else of it is linear. (ours)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moslim_core.errors import UserError
from moslim_core.models import layer_stack

if TYPE_CHECKING:
    from torch import nn

# Maps of these families' layers that fused kernels read past an adapter: PEFT refuses them.
MAMBA = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")
INSIDE_KERNELS = ("out_proj", "conv1d")


def adapter_config(model: nn.Module, rank: int, layers: int | None, task: Literal["CAUSAL_LM", "FEATURE_EXTRACTION"]) -> Any:
    """A PEFT configuration with alpha = 2 rank and no dropout. Raises UserError as `adapted_maps` does."""
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    targets = adapted_maps(model, layers)
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=list(targets),
        # GPT-2's own linear map keeps its weights the other way round.
        fan_in_fan_out=all(isinstance(module, Conv1D) for module in targets.values()),
        task_type=task,
    )


def adapted_maps(model: nn.Module, layers: int | None) -> dict[str, nn.Module]:
    """{name: linear map} of the last `layers` layers, or of all. PEFT, which takes seconds to load, is not needed to know them.

    Raises UserError if the model has fewer than `layers` layers, or these have no linear map.
    """
    stack_name, stack = layer_stack(model)
    if layers is not None and layers > len(stack):
        raise UserError(f"policy.lora_layers={layers}, but the model has {len(stack)} layers.\nGive at most {len(stack)}.")
    first = len(stack) - (layers or len(stack))
    config: Any = model.config
    left_out = INSIDE_KERNELS if config.model_type in MAMBA else ()
    targets = {
        f"{stack_name}.{index}.{name}": module
        for index in range(first, len(stack))
        for name, module in stack[index].named_modules()
        if _is_plain(module) and name.rpartition(".")[2] not in left_out
    }
    if not targets:
        raise UserError(f"the layers of {type(model).__name__} have no linear map that an adapter could change.\nGive another model.")
    return targets


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is a linear map and no more: some routers are subclasses that give a tuple."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (nn.Linear, Conv1D)) and type(module).forward in (nn.Linear.forward, Conv1D.forward)


def name_base(folder: Path, name: str) -> None:
    """Say in an adapter's folder which model it belongs to by name only: PEFT writes, in a README too, where that was loaded from."""
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "base_model_name_or_path": name}, indent=2), encoding="utf-8")
    (folder / "README.md").unlink(missing_ok=True)
