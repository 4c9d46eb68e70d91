"""`python -m flows.keeper HOME COMMAND...`: COMMAND, for as long as a process lives that uses it.

Users are files HOME/users/PID that hold when their process began. Whoever registers, or finds that nobody is left, holds HOME/server.lock.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from tasks.launcher import guarded, lives, stop

POLL_SECONDS = 0.5
# Two processes may differ in when they think that a third began.
SAME_START_SECONDS = 2.0


def lock(home: Path) -> FileLock:
    """What changes of the users and of the server are made under."""
    return FileLock(str(home / "server.lock"))


def record(home: Path) -> Path:
    """Address and process of the server that can be used."""
    return home / "server.json"


@contextlib.contextmanager
def using(home: Path) -> Iterator[None]:
    """Be a user; to be entered and left under the lock."""
    own = home / "users" / str(os.getpid())
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text(str(psutil.Process().create_time()))
    try:
        yield
    finally:
        own.unlink(missing_ok=True)


def in_use(home: Path) -> bool:
    """Whether a user lives; those that were killed are forgotten."""
    users = {user: _lives(user) for user in (home / "users").glob("*")}
    for user in (user for user, alive in users.items() if not alive):
        user.unlink(missing_ok=True)
    return any(users.values())


def _lives(user: Path) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, OSError, ValueError):
        pid, begun = int(user.name), float(user.read_text())
        return lives(pid) and abs(psutil.Process(pid).create_time() - begun) < SAME_START_SECONDS
    return False


def main(home: Path, command: list[str]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = subprocess.Popen(guarded(command))
    try:
        while server.poll() is None and not _left(home):
            time.sleep(POLL_SECONDS)
    finally:
        stop(server)


def _left(home: Path) -> bool:
    """Whether all users are gone; nobody finds the server then."""
    try:
        with lock(home).acquire(timeout=0):
            if in_use(home):
                return False
            record(home).unlink(missing_ok=True)
            return True
    except Timeout:
        return False


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
