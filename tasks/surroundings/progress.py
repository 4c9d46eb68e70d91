"""What a person sees while stages run: the terminal's bars, Prefect's progress artifact and its log."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any, Protocol
from uuid import UUID

log = logging.getLogger("moslim")

ARTIFACT_SECONDS = 3.0


class Listener(Protocol):
    """A display of progress. The command line sets one; a worker has none."""

    def progress(self, stage: str, phase: str, done: int, total: int) -> None:
        """A stage is so far."""

    def announce(self, stage: str, state: str) -> None:
        """A stage began, ended, or was reused."""

    def note(self, text: str) -> None:
        """A sentence for who watches."""


listener: Listener | None = None
# By task run and stage: a process may run a stage several times, in one task run after the other or side by side.
_artifacts: dict[tuple[UUID, str], tuple[UUID, float]] = {}


def tell(message: str) -> None:
    """A line in the run's log."""
    _run_logger().info(message)


def note(message: str) -> None:
    """`tell`, and to whoever watches."""
    tell(message)
    if listener:
        listener.note(message)


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def announce(stage: str, state: str, message: str) -> None:
    """`state` is running, resuming, reused, done, failed or stopped (by a person)."""
    tell(message)
    if listener:
        listener.announce(stage, state)
    if state in ("done", "reused"):
        _show(stage, 100.0, message, force=True)


def progress(stage: str, phase: str, done: int, total: int) -> None:
    """`done` of `total` units of `phase`."""
    if listener:
        listener.progress(stage, phase, done, total)
    _show(stage, 100.0 * done / max(total, 1), f"{phase}: {done} of {total}")


def _show(stage: str, percent: float, text: str, force: bool = False) -> None:
    """Update the stage's progress artifact, at most every few seconds. A server that is away must not stop the work."""
    from prefect.context import TaskRunContext

    context = TaskRunContext.get()
    if context is None:
        return
    key = (context.task_run.id, stage)
    known = _artifacts.get(key)
    if known and not force and time.monotonic() - known[1] < ARTIFACT_SECONDS:
        return
    with server_may_be_away():
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        if known is None:
            created: Any = create_progress_artifact(percent, key=f"{stage.replace('_', '-')}-progress", description=text)
            _artifacts[key] = (created, time.monotonic())
        else:
            update_progress_artifact(known[0], progress=percent, description=text)
            _artifacts[key] = (known[0], time.monotonic())


@contextlib.contextmanager
def server_may_be_away() -> Any:
    """What Prefect's page lacks for it is logged, and the work goes on."""
    import httpx

    try:
        yield
    except (httpx.HTTPError, OSError) as error:
        log.warning("Prefect did not take what was to be shown: %s", error)


def _run_logger() -> Any:
    from prefect.context import TaskRunContext
    from prefect.logging import get_run_logger

    return get_run_logger() if TaskRunContext.get() is not None else log
