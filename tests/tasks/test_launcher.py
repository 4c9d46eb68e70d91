"""The worker runs as a child: plainly, through torchrun or through accelerate; its events and its errors reach the parent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from moslim_core.errors import UserError
from moslim_core.settings import Settings
from tasks.execution.launcher import Launch, run_worker
from tasks.execution.stage import Job
from tasks.execution.worker import see_one_gpu

ACCELERATE = "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nuse_cpu: true\n"


def job(folder: Path, stage: str, model: Path, **policy: Any) -> Path:
    """A job file whose stage reads twenty rated rows."""
    rows = [{"prompt": f"Question {i}?", "response": "Bread and snow.", "tone": 1 + i % 2} for i in range(20)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "accelerate.yaml").write_text(ACCELERATE)
    settings = Settings.model_validate(
        {
            "preferences": [{"name": "tone", "levels": ["dry", "wry"]}],
            "data": {"source": "jsonl", "path": str(folder / "rows.jsonl"), "validation_fraction": 0.3, "test_fraction": 0.3},
            "model": {"base": str(model)},
            "policy": {"accelerate": str(folder / "accelerate.yaml"), **policy},
        }
    )
    given = Job(
        stage=stage,
        settings=settings,
        inputs={},
        output=folder / "output",
        checkpoints=folder / "checkpoints",
        events=folder / "events.jsonl",
        cache=folder / "cache",
    )
    file = folder / "job.json"
    file.write_text(given.model_dump_json())
    return file


def test_commands(tmp_path: Path) -> None:
    file, logs, worker = tmp_path / "job.json", str(tmp_path / "launcher"), ["-m", "tasks.execution.worker", str(tmp_path / "job.json")]
    assert Launch().command(file) == [sys.executable, *worker]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--log-dir", logs, "--nproc_per_node", "2"]
    assert Launch(2).command(file) == [sys.executable, *torchrun, *worker]
    launch = ["-m", "accelerate.commands.launch", "--config_file", "own.yaml", "--num_processes", "2", "--log_dir", logs]
    assert Launch(2, Path("own.yaml")).command(file) == [sys.executable, *launch, *worker]


def test_a_worker_that_works_alone_sees_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for before, after in ((None, "0"), ("3,5", "3"), ("", ""), ("GPU-8f2e", "GPU-8f2e")):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if before is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
        see_one_gpu()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == after
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setenv("WORLD_SIZE", "2")
    see_one_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5", "of several processes each takes its own"


@pytest.mark.integration
def test_a_worker_that_accelerate_starts(tiny_chat: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    events: list[dict[str, Any]] = []

    def on_event(event: dict[str, Any]) -> None:
        events.append(event)
        seen.extend(" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True))

    peak = run_worker(
        job(tmp_path, "label", tiny_chat), tmp_path / "events.jsonl", tmp_path / "log", on_event, Launch(1, tmp_path / "accelerate.yaml")
    )
    assert peak > 0 and events
    assert any("accelerate.commands.launch" in line for line in seen)
    assert (tmp_path / "output" / "train.jsonl").is_file() and (tmp_path / "metrics.json").is_file()


@pytest.mark.integration
def test_processes_that_accelerate_does_not_start_are_missed(tiny_chat: Path, tmp_path: Path) -> None:
    file = job(tmp_path, "train_policy", tiny_chat, processes=2)
    with pytest.raises(UserError, match=r"policy.processes=2, but policy.accelerate=.*accelerate.yaml started 1"):
        run_worker(file, tmp_path / "events.jsonl", tmp_path / "log", lambda event: None, Launch(2, tmp_path / "accelerate.yaml"))


PARENT = """
import sys
from pathlib import Path
from tasks.execution.launcher import Launch, run_worker
folder = Path(sys.argv[1])
run_worker(folder / "job.json", folder / "events.jsonl", folder / "log", print, Launch(1, folder / "accelerate.yaml"))
"""


@pytest.mark.integration
def test_a_killed_parent_takes_accelerate_and_its_worker_along(tiny_chat: Path, tmp_path: Path) -> None:
    job(tmp_path, "label", tiny_chat)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    started: list[psutil.Process] = []
    # accelerate's process, its worker, and the worker has had time to tie itself to it.
    while not (tmp_path / "events.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.1)
        started = psutil.Process(parent.pid).children(recursive=True)
    assert len(started) == 2
    started[1].suspend()  # so that it can't end by itself
    parent.kill()
    parent.wait()
    assert psutil.wait_procs(started, timeout=20)[1] == []
