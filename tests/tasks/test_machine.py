"""How training is started: packaged and own accelerate files, and what this machine lacks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file

from moslim_core.errors import UserError
from moslim_core.policy.settings import AccelerateProfile
from moslim_core.settings import Settings
from tasks.execution.launcher import Launch
from tasks.execution.machine import PACKAGED, launch
from tasks.stages.train_policy import STAGE

TYPES = {"one-gpu": "NO", "ddp": "MULTI_GPU", "fsdp": "FSDP"}


def settings(device: str = "cpu", **policy: Any) -> Settings:
    return Settings.model_validate(
        {"preferences": [{"name": "tone", "levels": ["dry", "wry"]}], "model": {"device": device}, "policy": policy}
    )


def own(folder: Path, way: str, **more: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "own.yaml"
    lines = {"compute_environment": "LOCAL_MACHINE", "distributed_type": f"'{way}'", **more}
    file.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    return file


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_packaged_files_are_accelerates_and_of_the_type_that_the_name_says() -> None:
    assert set(TYPES) == set(get_args(AccelerateProfile)) == {f.stem for f in PACKAGED.iterdir()}
    for name, expected in TYPES.items():
        loaded = load_config_from_file(str(PACKAGED / f"{name}.yaml"))
        assert loaded.distributed_type.value == expected
        assert not loaded.use_cpu


def test_launch_has_the_file_that_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = own(tmp_path, "NO", use_cpu="true")
    assert launch(settings()) == Launch()
    assert launch(settings(accelerate=str(file))) == Launch(1, file)
    gpus(monkeypatch, 2)
    assert launch(settings("cuda", accelerate="fsdp", processes=2)) == Launch(2, PACKAGED / "fsdp.yaml")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"accelerate": "ddp", "processes": 2}, "policy.accelerate=ddp needs a GPU, but this run is on cpu"),
        ({"accelerate": "one-gpu"}, "policy.accelerate=one-gpu needs a GPU, but this run is on cpu"),
        ({"accelerate": "fsdp", "processes": 2, "warm_start": "conditioned_sft"}, "This needs policy.warm_start=none"),
        (
            {"accelerate": "ddpp"},
            "policy.accelerate=ddpp: no such profile, and no file that can be read.\nGive one-gpu, ddp, fsdp, or a file",
        ),
    ],
)
def test_what_can_not_be_started_here(policy: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        launch(settings(**policy))
    assert message in str(caught.value)


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    with pytest.raises(UserError, match=r"policy\.processes=3 needs as many GPUs, but torch sees 2"):
        launch(settings("cuda", accelerate="ddp", processes=3, prompts_per_step=3))


def test_a_file_for_deepspeed(tmp_path: Path) -> None:
    file = own(tmp_path, "DEEPSPEED")
    with pytest.raises(UserError, match=r"own\.yaml is for DeepSpeed, which nothing here trains with\.\nTake policy\.accelerate=fsdp"):
        launch(settings("cuda", accelerate=str(file), processes=2))


def test_a_file_that_is_not_accelerates(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("steps: 3\n")
    with pytest.raises(UserError, match=r"has no distributed_type.\nGive a file that `accelerate config` wrote"):
        launch(settings(accelerate=str(file)))


def test_what_only_starts_processes_is_no_part_of_the_result(tmp_path: Path) -> None:
    section = STAGE.section
    assert section(settings()) == section(settings(accelerate="one-gpu"))
    assert section(settings(processes=2)) == section(settings(processes=2, accelerate="ddp"))
    assert section(settings(processes=2)) != section(settings(processes=2, accelerate="fsdp"))
    here, there = (own(tmp_path / name, "MULTI_GPU") for name in ("here", "there"))
    assert section(settings(accelerate=str(here))) == section(settings(accelerate=str(there)))
    own(tmp_path / "there", "MULTI_GPU", mixed_precision="bf16")
    assert section(settings(accelerate=str(here))) != section(settings(accelerate=str(there)))
