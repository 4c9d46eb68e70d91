"""`python -m flows.service.keeper HOME COMMAND...`: COMMAND, for as long as a process lives that uses it.

Users are files in HOME/users that hold their process's name. Whoever registers, or finds that nobody is left, holds HOME/server.lock.
Another container's or machine's users have a server of their own, on their own loopback.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.execution.launcher import guarded, stop
from tasks.ledger.references import digest_of
from tasks.surroundings.processes import is_alive, is_here, own_name

POLL_SECONDS = 0.5


def lock(home: Path) -> FileLock:
    """What changes of the users and of the server are made under."""
    return FileLock(str(home / "server.lock"))


def record(home: Path) -> Path:
    """Address and process of the server that can be used."""
    return home / "server.json"


@contextlib.contextmanager
def using(home: Path) -> Iterator[None]:
    """Be a user; to be entered and left under the lock."""
    own = home / "users" / digest_of(own_name())[:16]
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text(own_name(), encoding="utf-8")
    try:
        yield
    finally:
        own.unlink(missing_ok=True)


def in_use(home: Path) -> bool:
    """Whether a user lives here; those that were killed are forgotten."""
    used = False
    for user in (home / "users").glob("*"):
        name = user.read_text(encoding="utf-8", errors="replace")
        if not is_alive(name):
            user.unlink(missing_ok=True)
        used = used or (is_here(name) and is_alive(name))
    return used


def known(home: Path) -> tuple[str, str] | None:
    """(address, process) of the server that stands in the record, if that lives here."""
    try:
        recorded = json.loads(record(home).read_text(encoding="utf-8"))
        address, process = str(recorded["address"]), str(recorded["process"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return (address, process) if is_here(process) and is_alive(process) else None


def main(home: Path, command: list[str]) -> None:
    """Run COMMAND until nobody uses the server of `home` any more, or until SIGTERM."""
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
            server = known(home)
            if server is not None and server[1] == own_name():
                record(home).unlink(missing_ok=True)
            return True
    except Timeout:
        return False


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
