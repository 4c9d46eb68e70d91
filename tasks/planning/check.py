"""The question whether a run's models can do what it asks of them (moslim_core/preflight.py)."""

from __future__ import annotations

from typing import Any

from tasks.execution.stage import Job


def work(job: Job) -> dict[str, Any]:
    """Raises UserError at the first model that can't."""
    from moslim_core.preflight import check_models

    check_models(job.settings, job.cache, job.stages, job.inputs.get("policy"))
    return {}
