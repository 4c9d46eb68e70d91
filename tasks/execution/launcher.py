"""Runs a stage's work in a child process: its events are followed, its end is reported, and it never outlives its parent."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from moslim_core.errors import UserError
from tasks.execution import preloaded

Worker = subprocess.Popen[bytes] | preloaded.Forked

POLL = 0.2
GRACE = 5.0
LAST_LINES = 15


@dataclass(frozen=True)
class Launch:
    """How a stage's worker is started: in one process or several that work together, by accelerate if its configuration file is given."""

    processes: int = 1
    accelerate: Path | None = None

    def command(self, job: Path) -> list[str]:
        """The command that runs `tasks.execution.worker` on a job file; what a launcher writes goes beside it."""
        worker, logs = ["-m", "tasks.execution.worker", str(job)], str(job.parent / "launcher")
        if self.accelerate is not None:
            options = ["--config_file", str(self.accelerate), "--num_processes", str(self.processes), "--log_dir", logs]
            return [sys.executable, "-m", "accelerate.commands.launch", *options, *worker]
        if self.processes > 1:
            options = ["--standalone", "--log-dir", logs, "--nproc_per_node", str(self.processes)]
            return [sys.executable, "-m", "torch.distributed.run", *options, *worker]
        return [sys.executable, *worker]


def guarded(command: list[str]) -> list[str]:
    """`command` as a process that dies with this one."""
    return [sys.executable, "-m", "tasks.surroundings.die_with_parent", str(os.getpid()), *command]


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and what it started."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def memory_of(pid: int) -> int:
    """Bytes resident in a process and all below it; 0 if it has ended."""
    total = 0
    try:
        process = psutil.Process(pid)
        tree = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in tree:
        try:
            total += member.memory_info().rss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def run_worker(job: Path, events: Path, log: Path, on_event: Callable[[dict[str, Any]], None], launch: Launch) -> int:
    """Run `tasks.execution.worker` on a job file; returns the peak resident bytes of all its processes.

    All lines of `events`, those of an interrupted attempt first, go to `on_event` as they come. Raises UserError if the worker
    met one, RuntimeError with its last lines if it died. Any exception here (a cancellation too) kills the worker and what it
    started.
    """
    # From the start: what an interrupted attempt wrote, but could not hand over any more, is not lost.
    seen = 0
    Path(f"{job}.error").unlink(missing_ok=True)
    child = (preloaded.fork(job) if launch == Launch() else None) or _started(guarded(launch.command(job)))
    tail: deque[str] = deque(maxlen=LAST_LINES)
    reader = threading.Thread(target=_drain, args=(child, log, tail), daemon=True)
    reader.start()
    peak = 0
    try:
        while child.poll() is None:
            time.sleep(POLL)
            peak = max(peak, memory_of(child.pid))
            seen = _follow(events, seen, on_event)
        _follow(events, seen, on_event)
    finally:
        _stop(child)
    reader.join(timeout=GRACE)
    # Launchers have exit codes of their own.
    if child.returncode != 0 and Path(f"{job}.error").is_file():
        raise UserError(Path(f"{job}.error").read_text(encoding="utf-8"))
    if child.returncode != 0:
        raise RuntimeError(f"the worker ended with code {child.returncode} (whole log: {log}):\n" + "\n".join(tail))
    return peak


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)


def _drain(child: Worker, log: Path, tail: deque[str]) -> None:
    assert child.stdout is not None
    with log.open("ab", buffering=0) as file:
        for line in child.stdout:
            tail.append(line.decode(errors="replace").rstrip())
            # On a full disk: who stops reading stops the worker too.
            with contextlib.suppress(OSError):
                file.write(line)


def _follow(events: Path, seen: int, on_event: Callable[[dict[str, Any]], None]) -> int:
    """Hand over the whole lines after byte `seen`; returns where they end."""
    if not events.exists():
        return seen
    with events.open("rb") as file:
        file.seek(seen)
        for line in file:
            if not line.endswith(b"\n"):
                break
            seen += len(line)
            on_event(json.loads(line))
    return seen


def _stop(child: Worker) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is not None:
            return
        try:
            os.killpg(child.pid, sign)
            child.wait(timeout=GRACE)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
