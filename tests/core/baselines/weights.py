"""What a policy is, to compare two: its adapter's weights, or its logits."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(10).unsqueeze(0)).logits
