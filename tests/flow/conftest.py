"""A whole run on tiny models, through the command line in processes of its own, as a user would start it.

What costs time here are starts: a process imports for seconds what it needs, and a Prefect server makes its database for twenty.
So one database is made and copied, one run serves all that look at it, and commands that only look run in the tests' own process.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from flows.service.server import prefect_server

# Against what hangs; a machine that others use too is slow.
LIMIT = 500
STEPS = 12
# Nobody answers there; what is on loopback must not be asked of it.
BEHIND_A_PROXY = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://127.0.0.1:9") | {"NO_PROXY": "", "no_proxy": ""}
# What names of folders have, and addresses of databases and files have another meaning for.
ODD_NAME = "w#1 100%41 é 日本&;"

Moslim = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(home: Path) -> dict[str, str]:
    """The user's environment with an empty home, which is also where temporary files go, and no server configured."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "HF_", "MOSLIM_"))}
    return {**kept, "HOME": str(home), "TMPDIR": str(home), "COLUMNS": "200"}


@contextlib.contextmanager
def served(work_dir: Path) -> Iterator[str]:
    """The address of a Prefect server of this work directory that stays, as under `moslim ui`, also for flows in this process."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_LOCAL_STORAGE_PATH, temporary_settings

    home = work_dir / "prefect"
    places = {PREFECT_HOME: home, PREFECT_LOCAL_STORAGE_PATH: home / "storage"}
    with prefect_server(work_dir) as address, temporary_settings({PREFECT_API_URL: address, **places}):
        yield address


def inside(*arguments: str) -> Result:
    """`moslim` in this process, which has loaded already what commands wait for; where a server is `served`."""
    from flows.cli.commands import app

    before = dict(os.environ)
    try:
        return CliRunner().invoke(app, list(arguments))
    finally:
        os.environ.clear()
        os.environ.update(before)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flows.cli", *arguments]


@pytest.fixture(scope="session")
def profile(tiny_chat: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile with two verifiable preferences, rows whose labels a rule gave, and models that learn in seconds."""
    folder = tmp_path_factory.mktemp("profile")
    rng = random.Random(0)
    words = ("the fox jumps over a lazy dog near the river and bakes bread with good salt and bad yeast").split()
    rows = []
    for index in range(240):
        length = rng.randint(1, 12)
        rows.append(
            {
                "prompt": f"Question number {index % 80} about bread and snow?",
                "response": " ".join(rng.choices(words, k=length)),
                "length": 1 if length <= 4 else 2 if length <= 8 else 3,
                "mood": rng.choice([1, 2, None]),
            }
        )
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    values: dict[str, Any] = {
        "preferences": [
            {"name": "length", "levels": ["short", "middling", "long"], "annotator": {"measure": "word_count", "thresholds": [4, 8]}},
            {"name": "mood", "levels": ["sad", "glad"], "annotator": {"measure": "warmth", "thresholds": [0.1]}},
        ],
        "data": {"source": "jsonl", "path": "rows.jsonl", "validation_fraction": 0.2, "test_fraction": 0.2},
        "model": {"base": str(tiny_chat), "dtype": "float32", "device": "cpu"},
        "reward": {"backbone": str(tiny_encoder), "epochs": 2, "batch_size": 16, "learning_rate": 0.001, "max_length": 64},
        "policy": {
            "steps": STEPS, "prompts_per_step": 2, "targets_per_prompt": 1, "group_size": 2, "max_new_tokens": 8, "max_prompt_tokens": 200,
            "learning_rate": 0.001, "lora_rank": 4, "checkpoint_every": 2,
        },
        "evaluation": {"limit": 4, "bootstrap": 100},
    }  # fmt: skip
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


@pytest.fixture(scope="session")
def moslim(tmp_path_factory: pytest.TempPathFactory) -> Moslim:
    """Run `moslim` in an empty current directory with an empty home, behind a proxy that is dead."""

    def run(*arguments: str, home: Path | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
        home = home or tmp_path_factory.mktemp("home")
        options.setdefault("cwd", tmp_path_factory.mktemp("cwd"))
        return subprocess.run(
            command(*arguments),
            env={**environment(home), **BEHIND_A_PROXY},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
            **options,
        )

    return run


class Finished:
    """A finished run: its work directory, the home and current directory it was started in, what it printed."""

    def __init__(self, work_dir: Path, home: Path, cwd: Path, result: subprocess.CompletedProcess[str]) -> None:
        self.work_dir, self.home, self.cwd, self.result = work_dir, home, cwd, result


@pytest.fixture(scope="session")
def finished(profile: Path, moslim: Moslim, prepared: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    work, home, cwd = (tmp_path_factory.mktemp(name) for name in ("work", "home", "cwd"))
    work_dir = prepared(work / ODD_NAME)
    result = moslim("run", "--profile", str(profile), "--set", f"work_dir={work_dir}", home=home, cwd=cwd)
    assert result.returncode == 0, result.stdout + result.stderr
    return Finished(work_dir, home, cwd, result)
