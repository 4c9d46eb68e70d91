"""The process environment of a run: everything below one work directory, every library's telemetry off. Import before the libraries."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from moslim_core import models
from moslim_core.errors import UserError
from moslim_core.model_identity import ModelRef, identify
from moslim_core.section import changed
from moslim_core.settings import Settings

QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
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
}


def prepare(work_dir: Path) -> Path:
    """Create the work directory and point every library's state into it; returns it as an absolute path.

    Raises UserError if it can't be written. What the user's own environment sets wins.
    """
    work_dir = work_dir.expanduser().absolute()
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=work_dir):
            pass
    except OSError as error:
        raise UserError(
            f"work_dir={work_dir} can't be written ({error.strerror or error}).\nGive a folder of yours with --set work_dir=PATH."
        ) from error
    places = {
        "PREFECT_HOME": work_dir / "prefect",
        "PREFECT_LOCAL_STORAGE_PATH": work_dir / "prefect" / "storage",
        "HF_DATASETS_CACHE": work_dir / "cache" / "datasets",
        "MPLCONFIGDIR": work_dir / "cache" / "matplotlib",
        "TORCHINDUCTOR_CACHE_DIR": work_dir / "cache" / "torch",
    }
    for name, value in {**QUIET, **{k: str(v) for k, v in places.items()}}.items():
        os.environ.setdefault(name, value)
    Path(os.environ["MPLCONFIGDIR"]).mkdir(parents=True, exist_ok=True)
    return work_dir


def prepared(settings: Settings) -> Settings:
    """`settings` with their work directory made ready, as an absolute path: wherever a worker runs, it is one place."""
    return changed(settings, work_dir=prepare(settings.work_dir))


def model_cache(work_dir: Path) -> Path:
    """Where converted packaged models are kept: MOSLIM_MODEL_CACHE, else below the work directory."""
    return Path(os.environ.get("MOSLIM_MODEL_CACHE") or work_dir / "models").absolute()


def model_of(named: str, settings: Settings) -> ModelRef:
    """The model that a setting names, with the digest of its content. Raises UserError where there is none."""
    return identify(named, model_cache(settings.work_dir))


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

    found = {name: version(name) for name in ("torch", "transformers", "trl", "peft")}
    return {**found, "python": ".".join(map(str, sys.version_info[:2]))}
