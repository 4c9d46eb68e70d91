"""Who waits is told how long: also without a terminal, and after an interruption."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console
from typer.testing import CliRunner

from flows.cli import waiting
from flows.cli.commands import app
from flows.cli.console import Stages
from flows.cli.settings_help import COMMON, common_settings
from flows.cli.waiting import Waiting
from moslim_core.settings import described


def test_the_eta_goes_by_what_is_done_now(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    shown = Waiting(Console(file=io.StringIO(), force_terminal=False))
    # Resumed: 40 of 60 steps were done before.
    shown.update("train_policy", "training", 40, 60)
    assert shown.left() is None
    now[0] += 30
    shown.update("train_policy", "training", 41, 60)
    assert shown.left() == pytest.approx(30 * 19)
    assert "about 570 s left" in shown.line()


def test_without_a_terminal_silence_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LINE_SECONDS", 0.0)
    out = io.StringIO()
    with Waiting(Console(file=out, force_terminal=False, width=200)) as shown:
        stages = Stages(shown)
        stages.announce("train_reward", "running")
        time.sleep(1.2)
        stages.progress("train_reward", "training", 3, 9)
        time.sleep(1.2)
        stages.announce("train_reward", "stopped")
    told = out.getvalue()
    assert "train_reward: starting, " in told and "train_reward: training 3 of 9" in told
    assert told.rstrip().endswith("train_reward: stopped")


def test_the_help_has_the_twenty_settings_that_people_change() -> None:
    every = [key for keys in described().values() for key, _, _ in keys]
    assert len(COMMON) == 20 and set(COMMON) <= set(every)
    assert all(f"  {key} = " in common_settings() for key in COMMON)
    told = CliRunner().invoke(app, ["settings"]).stdout
    assert all(f"  {key} = " in told for key in every)
    part = CliRunner().invoke(app, ["settings", "policy.ppo"]).stdout
    assert part.count(" = ") == sum(key.startswith("policy.ppo.") for key in every)
    wrong = CliRunner().invoke(app, ["settings", "polcy"])
    assert wrong.exit_code == 2 and "Did you mean policy?" in wrong.stderr
