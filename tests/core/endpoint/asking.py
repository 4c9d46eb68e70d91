"""Questions to a judge, and errors that must not tell its key."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest

from moslim_core.errors import UserError
from moslim_core.judging.endpoint import Question
from tests.core.chat_server import says

SCHEMA = {
    "type": "object",
    "properties": {"level": {"type": ["integer", "null"], "minimum": 1, "maximum": 5}},
    "required": ["level"],
    "additionalProperties": False,
}
KEY = "sk-do-not-tell-4711"
FINE = says({"level": 3})


def questions(count: int, version: str = "v1") -> list[Question]:
    return [Question([{"role": "user", "content": f"question {n}"}], SCHEMA, version) for n in range(count)]


def refused(run: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        run()
    shown = "".join(traceback.format_exception(caught.value))
    assert KEY not in shown
    assert len(str(caught.value).splitlines()) <= 3
    return str(caught.value)
