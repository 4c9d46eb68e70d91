"""The pipeline's own run in the ledger: parent of its stages, with their key numbers for MLflow's compare view."""

from __future__ import annotations

from collections.abc import Mapping

from moslim_core.settings import Settings
from tasks.references import digest_of
from tasks.stage import Outcome, ledger_of


def open_pipeline(settings: Settings, until: str, parent: str | None = None, name: str | None = None) -> str:
    """The parent run's id: that of an interrupted run with the same settings, else a new one; in a comparison below `parent`, where
    `name` tells it from its siblings."""
    ledger = ledger_of(settings.work_dir)
    ledger.reconcile()
    section = settings.content()
    name = name or ("align" if until == "report" else f"align until {until}")
    return ledger.open_pipeline(digest_of({"settings": section, "until": until}), name, section, parent)


def close_pipeline(settings: Settings, run_id: str, status: str, outcomes: Mapping[str, Outcome]) -> None:
    """Record key numbers, which stage run each result came from, and the end."""
    ledger = ledger_of(settings.work_dir)
    numbers: dict[str, float] = {}
    for name, outcome in outcomes.items():
        numbers |= {f"seconds/{name}": outcome.seconds} | outcome.metrics
        ledger.client.set_tag(run_id, f"moslim.run.{name}", outcome.ref.run_id)
    # MLflow's compare page starts with the first of them: by name that is a figure of the policy or of a head.
    ledger.log_points(run_id, [(0, dict(sorted(numbers.items())))])
    ledger.close(run_id, status)
