"""Calls that wait for workers elsewhere, made at the same time: as many work as there are workers. (ours)"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import ContextVar, copy_context
from typing import TypeVar

T = TypeVar("T")

_over: ContextVar[threading.Event | None] = ContextVar("over", default=None)


class Stopped(BaseException):
    """What this call was made beside has failed or was stopped. No failure of its own: it is recorded as a cancellation is."""


def require_going() -> None:
    """Raises Stopped where what this call was made beside is over. Who waits for long asks again and again."""
    over = _over.get()
    if over is not None and over.is_set():
        raise Stopped


def side_by_side(calls: Sequence[Callable[[], T]]) -> Generator[T]:
    """Results as they come. Each call has a thread, with this one's context (a flow run, a task run).

    The first failure is raised here, as what stops this thread is; before that all others have been stopped and have ended.
    """
    over = threading.Event()

    def made(call: Callable[[], T]) -> T:
        _over.set(over)
        return call()

    with ThreadPoolExecutor(max(1, len(calls))) as threads:
        try:
            for ended in as_completed([threads.submit(copy_context().run, made, call) for call in calls]):
                yield ended.result()
        finally:
            over.set()


def all_of(calls: Sequence[Callable[[], T]], placement: str) -> Generator[T]:
    """What calls give, as they end: on pools as many at once as there are workers, on one machine in turn."""
    return side_by_side(calls) if placement == "pools" else (call() for call in calls)
