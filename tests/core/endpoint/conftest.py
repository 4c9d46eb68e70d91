"""An endpoint of a server on loopback, with no key around."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moslim_core.judging.endpoint import Endpoint
from moslim_core.judging.settings import JudgeSettings
from tests.core.chat_server import ChatServer


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MOSLIM_JUDGE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def endpoint(tmp_path: Path) -> Callable[..., Endpoint]:
    def make(server: ChatServer | str, name: str = "answers.sqlite", **settings: Any) -> Endpoint:
        url = server if isinstance(server, str) else server.url
        given = {"base_url": url, "model": "judge", "timeout_seconds": 5, "attempts": 3, **settings}
        return Endpoint(JudgeSettings.model_validate(given), tmp_path / name, backoff=0.01)

    return make
