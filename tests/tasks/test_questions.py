"""Questions are answered in the process that stages fork from: errors come back as they are, and a stage waits for an answer."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from moslim_core.errors import UserError
from moslim_core.settings import Settings
from tasks.execution import preloaded
from tasks.execution.questions import ask
from tasks.surroundings.environment import has_accelerator
from tests.odd import tiny_models as tiny
from tests.tasks.test_preloaded import forked

pytestmark = pytest.mark.integration


def settings(base: Path, work_dir: Path, **policy: Any) -> Settings:
    model = {"base": str(base), "device": "cpu", "dtype": "float32"}
    given = {"preferences": tiny.PREFERENCES, "model": model, "reward": {"backbone": str(base)}, "policy": policy, "work_dir": work_dir}
    return Settings.model_validate(given)


def test_a_model_that_can_not_is_told_in_the_same_words(tmp_path: Path) -> None:
    base = tiny.chat(tmp_path)
    assert ask("check", settings(base, tmp_path), ("label", "train_policy")) == {}
    with pytest.raises(UserError, match=r"^policy\.max_new_tokens=256, but .* reads \d+ tokens at once"):
        ask("check", settings(base, tmp_path, max_new_tokens=256), ("label", "train_policy"))
    assert ask("check", settings(base, tmp_path, max_new_tokens=256), ("label",)) == {}


@pytest.mark.skipif(sys.platform != "linux" or has_accelerator(), reason="workers are forked on Linux without a GPU")
def test_a_stage_waits_for_an_answer_and_shares_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny.chat(tmp_path)
    monkeypatch.setattr(preloaded, "_surroundings", lambda: ({}, "here"))
    monkeypatch.setattr(preloaded, "_server", None)
    asking = threading.Thread(target=ask, args=("check", settings(base, tmp_path), ("label", "train_policy")))
    asking.start()
    while preloaded._server is None or not preloaded._server.free.locked():
        assert asking.is_alive()
    server = preloaded._server
    worker = forked(tmp_path / "label", base)
    assert psutil.Process(worker.pid).ppid() == server._process.pid
    assert worker.stdout.read() is not None and worker.wait(60) in (0, 1, 2)
    asking.join()
    server.end()
