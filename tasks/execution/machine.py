"""What training asks of this machine that not everyone has: refused before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import yaml

from moslim_core import models
from moslim_core.errors import UserError
from moslim_core.policy.settings import AccelerateProfile, PolicySettings, refuse_sharded
from moslim_core.settings import Settings
from moslim_core.training.distributed import processes
from tasks.execution.launcher import Launch
from tasks.surroundings.environment import model_of

# Each process holds a part of the weights only.
SHARDED = "FSDP"
PACKAGED = Path(__file__).with_name("accelerate")


def configuration(policy: PolicySettings) -> tuple[Path | None, dict[str, Any]]:
    """(accelerate configuration file that training is started with, what it says); (None, {}) without one.

    Raises UserError where there is no such file, or it is not one of accelerate's.
    """
    if policy.accelerate is None:
        return None, {}
    file = policy.accelerate if isinstance(policy.accelerate, Path) else PACKAGED / f"{policy.accelerate}.yaml"
    try:
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"policy.accelerate={policy.accelerate}: no such profile, and no file that can be read.\n"
            f"Give {', '.join(get_args(AccelerateProfile))}, or a file that `accelerate config` wrote."
        ) from error
    if not isinstance(said, dict) or "distributed_type" not in said:
        raise UserError(f"{file} has no distributed_type.\nGive a file that `accelerate config` wrote.")
    return file, said


def sharded(policy: PolicySettings) -> bool:
    """Whether training shares the weights out among processes. Raises UserError as `configuration` does."""
    return configuration(policy)[1].get("distributed_type") == SHARDED


def launch(settings: Settings) -> Launch:
    """How training is started. Raises UserError where this machine lacks what that needs."""
    policy = settings.policy
    file, said = configuration(policy)
    way = said.get("distributed_type")
    if way == "DEEPSPEED":
        raise UserError(f"{file} is for DeepSpeed, which nothing here trains with.\nTake policy.accelerate=fsdp to share weights out.")
    if way == SHARDED:
        refuse_sharded(policy, _shares_base(settings))
    _require_gpus(settings, isinstance(policy.accelerate, str))
    return Launch(policy.processes, file)


def require_started(policy: PolicySettings) -> None:
    """In the worker: raises UserError where fewer processes were started than asked for."""
    if processes() != policy.processes:
        # accelerate starts one process without a word where it knows of no several devices.
        raise UserError(
            f"policy.processes={policy.processes}, but policy.accelerate={policy.accelerate} started {processes()}.\n"
            "Give a file whose distributed_type starts several, such as MULTI_GPU, or set policy.processes=1."
        )


def _shares_base(settings: Settings) -> bool:
    """Whether the reward model will be an adapter of the policy's base."""
    of = settings.reward.adapter_of
    return of is not None and model_of(of, settings).id.digest == model_of(settings.model.base, settings).id.digest


def _require_gpus(settings: Settings, packaged: bool) -> None:
    """`packaged`: whether training is started in one of this project's own ways, which are for GPUs only."""
    device, wanted = models.pick_device(settings.model.device), settings.policy.processes
    if packaged and device != "cuda":
        raise UserError(
            f"policy.accelerate={settings.policy.accelerate} needs a GPU, but this run is on {device}.\n"
            "Leave it out, or run where torch sees a GPU (moslim doctor says so) and with model.device=auto."
        )
    if device != "cuda":
        return
    import torch

    gpus = torch.cuda.device_count()
    if wanted > gpus:
        raise UserError(f"policy.processes={wanted} needs as many GPUs, but torch sees {gpus}.\nSet policy.processes={gpus} at most.")
