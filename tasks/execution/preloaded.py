"""Workers as forks of one process that has loaded the libraries: loading them takes seconds, stage after stage. (ours)

Here is the parent's side; `python -m tasks.execution.preloaded FD` is the other. Where there is a GPU, whose driver survives no fork, and
elsewhere than on Linux each worker is a process of its own from the start (tasks/execution/launcher.py).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import IO

from tasks.execution import worker
from tasks.stage_list import QUESTIONS, libraries_of
from tasks.surroundings.die_with_parent import die_with
from tasks.surroundings.environment import has_accelerator

MESSAGE = 1 << 16
# Longest wait in seconds for the answer to a question.
ANSWERED = 60.0


class Forked:
    """A worker, as subprocess.Popen has it: it leads a process group, and what it writes is in `stdout`."""

    def __init__(self, server: _Server, pid: int, stdout: IO[bytes]) -> None:
        self._server, self.pid, self.stdout = server, pid, stdout
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, -N where signal N ended it, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            self.returncode = self._server.code(timeout)
            self._server.free.release()
        return self.returncode


class _Server:
    """The process with the libraries, as it was when it began: another environment needs another. It works for one job at a time."""

    def __init__(self) -> None:
        self.began = _surroundings()
        self.working: str | None = None
        self.free = threading.Lock()
        self._connection, other = socket.socketpair()
        command = [sys.executable, "-m", "tasks.execution.preloaded", str(other.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[other.fileno()], stdin=subprocess.DEVNULL, start_new_session=True)
        other.close()
        self._replies = self._connection.makefile("rb", buffering=0)

    def fits(self) -> bool:
        return self._process.poll() is None and self.began == _surroundings()

    def take(self) -> bool:
        """Whether `free` could be taken, after a question that is being answered."""
        return self.free.acquire(timeout=ANSWERED if self.working in QUESTIONS else 0)

    def fork(self, job: Path, stage: str) -> Forked:
        """Who calls it has taken `free`, which the end of the worker releases."""
        self.working = stage
        read, write = os.pipe()
        try:
            socket.send_fds(self._connection, [json.dumps([str(job), stage]).encode()], [write])
        finally:
            os.close(write)
        return Forked(self, int(self._replies.readline()), os.fdopen(read, "rb"))

    def code(self, timeout: float | None) -> int:
        if not select.select([self._connection], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("the worker", timeout or 0)
        # A server that was killed takes its worker along.
        return int(self._replies.readline() or -signal.SIGKILL)

    def end(self) -> None:
        self._connection.close()
        self._replies.close()
        self._process.wait()


_server: _Server | None = None
_choosing = threading.Lock()


def fork(job: Path) -> Forked | None:
    """A worker on a job file; None where none can be forked here, or another is at work."""
    global _server
    if sys.platform != "linux" or has_accelerator():
        return None
    with _choosing:
        if _server is not None and not _server.take():
            return None
        if _server is not None and not _server.fits():
            _server.end()
            _server = None
        if _server is None:
            _server = _Server()
            _server.take()
        try:
            return _server.fork(job, json.loads(job.read_bytes())["stage"])
        except (OSError, ValueError):
            # It was killed; the worker starts without it.
            _server = None
            return None


def _surroundings() -> tuple[dict[str, str], str]:
    return dict(os.environ), os.getcwd()


def main(connection: socket.socket) -> None:
    """Fork a worker for each job that comes, until the parent has gone; it takes along the one that works then."""
    while True:
        message, (output, *_), _, _ = socket.recv_fds(connection, MESSAGE, 1) if _waits(connection) else (b"", [-1], 0, None)
        if not message:
            return
        job, stage = json.loads(message)
        # What can't be loaded is said by the worker, in its log.
        with contextlib.suppress(Exception):
            importlib.import_module(libraries_of(stage))
        server, pid = os.getpid(), os.fork()
        if pid == 0:
            _work(Path(job), output, connection, server)
        os.close(output)
        try:
            connection.sendall(b"%d\n" % pid)
        except OSError:
            # The parent went meanwhile.
            os.kill(pid, signal.SIGKILL)
            return
        ended = os.pidfd_open(pid)
        if connection.fileno() in select.select([connection.fileno(), ended], [], [])[0]:
            os.killpg(pid, signal.SIGKILL)
        os.close(ended)
        with contextlib.suppress(OSError):
            connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _waits(connection: socket.socket) -> bool:
    """Whether a job has come, rather than the end."""
    return bool(connection.recv(1, socket.MSG_PEEK))


def _work(job: Path, output: int, connection: socket.socket, server: int) -> None:
    """The child's side of a fork; never returns."""
    code = 1
    try:
        die_with(server)
        os.setsid()
        connection.close()
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        code = worker.main(job)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except:  # noqa: E722  (whatever it is: a fork must not go on as its parent would)
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
