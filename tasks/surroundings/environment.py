"""The process environment of a run: everything below one work directory, every library's telemetry off. Import before the libraries."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from moslim_core import models
from moslim_core.errors import UserError
from moslim_core.models.identity import ModelRef, identify
from moslim_core.models.sources import commit
from moslim_core.settings import Settings
from moslim_core.settings_section import changed
from tasks.surroundings import network, work_dirs

QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    # Progress is shown by this project's own bars, which say how long it will take.
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    # MLflow prints an emoji link per run otherwise, and Git is no part of a run's identity here.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    # glibc gives large blocks back to the system at once; taking them again, page by page, costs about a sixth of a step.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    # A user's queue.py in the folder where a command is given is no module of the processes that are started here.
    "PYTHONSAFEPATH": "1",
    # Files are UTF-8 whatever the terminal speaks; this reaches the processes that are started here.
    "PYTHONUTF8": "1",
}

# What says that there is a GPU before a library that could is loaded.
ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/accel", "/dev/davinci_manager")
# A CPU's attention takes keys and values that several heads share as they are; transformers would repeat them, with a mask, for a GPU's.
# Passes that learn take 7 % less time and hold less. The numbers are the same.
ON_CPU = {"TRANSFORMERS_SDPA_FORCE_GQA": "1"}


def prepare(work_dir: Path) -> Path:
    """Create the work directory and point every library's state into it; returns it as an absolute path.

    Raises UserError, before anything is written, if it can't be used. What the user's own environment sets wins.
    """
    network.reach_loopback()
    work_dir = work_dirs.made(work_dir)
    point(work_dir)
    Path(os.environ["MPLCONFIGDIR"]).mkdir(parents=True, exist_ok=True)
    return work_dir


def existing(work_dir: Path) -> Path:
    """`prepare` for a command that makes no new work directory. Raises UserError where there is none."""
    network.reach_loopback()
    work_dir = work_dirs.existing(work_dir)
    point(work_dir)
    return work_dir


def point(work_dir: Path) -> None:
    """Set the variables that lead every library to its place in the work directory."""
    places = {
        "PREFECT_HOME": work_dir / "prefect",
        "PREFECT_LOCAL_STORAGE_PATH": work_dir / "prefect" / "storage",
        "HF_DATASETS_CACHE": work_dir / "cache" / "datasets",
        "MPLCONFIGDIR": work_dir / "cache" / "matplotlib",
        "TORCHINDUCTOR_CACHE_DIR": work_dir / "cache" / "torch",
    }
    more = {} if has_accelerator() else ON_CPU
    for name, value in {**QUIET, **more, **{k: str(v) for k, v in places.items()}, **_nobody(work_dir)}.items():
        os.environ.setdefault(name, value)


def has_accelerator() -> bool:
    """Whether this machine has a GPU, told by its device files: asking torch takes seconds."""
    return any(map(os.path.exists, ACCELERATORS))


def _nobody(work_dir: Path) -> dict[str, str]:
    """What a user without a home or a name lacks: libraries ask for both, and would take a folder called ~."""
    given = {}
    try:
        Path.home()
    except RuntimeError:
        given["HOME"] = str(work_dir / "cache" / "home")
    if hasattr(os, "getuid"):
        import pwd

        try:
            pwd.getpwuid(os.getuid())
        except KeyError:
            given["USER"] = f"user-{os.getuid()}"
    return given


def prepared(settings: Settings) -> Settings:
    """`settings` with their work directory made ready, as an absolute path: wherever a worker runs, it is one place."""
    return changed(settings, work_dir=prepare(settings.work_dir))


def model_cache(work_dir: Path) -> Path:
    """Where converted packaged models are kept: MOSLIM_MODEL_CACHE, else below the work directory. Raises UserError where it is a file."""
    cache = Path(os.environ.get("MOSLIM_MODEL_CACHE") or work_dir / "models").absolute()
    if os.path.lexists(cache) and not cache.is_dir():
        raise UserError(f"{cache} is no folder, and models are kept there.\nMove it away, or name a folder: MOSLIM_MODEL_CACHE=FOLDER.")
    return cache


def model_of(named: str, settings: Settings) -> ModelRef:
    """The model that a setting names, with the digest of its content. Raises UserError where there is none."""
    return identify(named, model_cache(settings.work_dir))


def described(named: str, settings: Settings) -> str:
    """What tells a model's configuration and tokenizer from another's: a hub id's commit, for which no weights are fetched, else the
    digest of the model's content. Raises UserError where there is no such model."""
    return commit(named, model_cache(settings.work_dir)) or model_of(named, settings).id.digest


def pinned(settings: Settings) -> Settings:
    """`settings` whose models another process finds as this one did: those that it fetched from the hub at their revision."""
    judge = settings.evaluation.judge_backbone
    return changed(
        settings,
        model=changed(settings.model, base=models.pinned(settings.model.base)),
        reward=changed(settings.reward, backbone=models.pinned(settings.reward.backbone)),
        evaluation=changed(settings.evaluation, judge_backbone=judge and models.pinned(judge)),
    )


def versions() -> dict[str, str]:
    """Versions that a stage's result may depend on, read without importing the packages."""
    from importlib.metadata import version

    packages = {name: version(name) for name in ("torch", "transformers", "trl", "peft")}
    return {**packages, "python": ".".join(map(str, sys.version_info[:2]))}
