"""Calls at the same time: what they give, what they run under, and that the end of one is the end of all."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from contextvars import ContextVar
from functools import partial

import pytest

from moslim_core.errors import UserError
from tasks.execution.side_by_side import Stopped, require_going, side_by_side

of_the_caller: ContextVar[str] = ContextVar("of_the_caller")


def patient(stopped: list[str], name: str) -> str:
    """A call that waits for a worker which never ends."""
    try:
        while True:
            require_going()
            time.sleep(0.01)
    except Stopped:
        stopped.append(name)
        raise


def test_all_run_at_once_and_come_as_they_end() -> None:
    together = threading.Barrier(3, timeout=30)

    def call(name: str, seconds: float) -> str:
        together.wait()
        time.sleep(seconds)
        return name

    assert list(side_by_side([partial(call, "slow", 0.6), partial(call, "quick", 0.0), partial(call, "middling", 0.3)])) == [
        "quick",
        "middling",
        "slow",
    ]
    assert list(side_by_side([])) == []


def test_each_has_the_context_of_who_calls() -> None:
    of_the_caller.set("flow run 7")
    assert list(side_by_side([of_the_caller.get] * 2)) == ["flow run 7"] * 2
    require_going()


@pytest.mark.parametrize("failure", [UserError("no model"), RuntimeError("lost"), KeyboardInterrupt()])
def test_a_failure_ends_the_others_before_it_is_told(failure: BaseException) -> None:
    stopped: list[str] = []

    def fail() -> str:
        time.sleep(0.1)
        raise failure

    with pytest.raises(type(failure)):
        list(side_by_side([partial(patient, stopped, "one"), fail, partial(patient, stopped, "other")]))
    assert sorted(stopped) == ["one", "other"]


def test_who_reads_no_further_ends_them() -> None:
    stopped: list[str] = []
    with closing(side_by_side([lambda: "first", partial(patient, stopped, "other")])) as results:
        assert next(results) == "first"
    assert stopped == ["other"]
