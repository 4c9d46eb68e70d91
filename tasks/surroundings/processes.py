"""Which process is meant, by something that does not move: process numbers are used again, and clocks are set while a run works.

Linux names each boot and counts a process's start in ticks since then (proc(5): `/proc/PID/stat`, field 22). Where there is no `/proc`,
psutil's time of creation has to do, which follows the clock.
"""

from __future__ import annotations

import contextlib
import os
import socket
from functools import cache
from pathlib import Path
from typing import NamedTuple

import psutil

PROC = Path("/proc")
# Of a process that /proc hides (its option hidepid): whoever has the number may be it.
HIDDEN = "hidden"


class _Name(NamedTuple):
    """`boot` and `container` are empty where there is no /proc; a container counts its processes apart (a pid namespace)."""

    host: str
    boot: str
    container: str
    pid: int
    birth: str

    @classmethod
    def read(cls, name: str) -> _Name:
        """Of HOST:BOOT:CONTAINER:PID:BIRTH. Raises ValueError for another text."""
        host, boot, container, pid, birth = name.rsplit(":", 4)
        return cls(host, boot, container, int(pid), birth)


def own_name() -> str:
    """This process, in a way that outlives the reuse of its number, without white space."""
    return name_of(os.getpid())


def name_of(pid: int) -> str:
    """A process of this machine, as `is_alive` takes it."""
    return ":".join((*_place(), str(pid), birth(pid) or ""))


def pid_of(name: str) -> int:
    """The number of a named process; it means something where `is_here` is true."""
    return _Name.read(name).pid


def is_here(name: str) -> bool:
    """Whether the named process is, or was, one of this machine since its start, and of this container."""
    try:
        named = _Name.read(name)
    except ValueError:
        return False
    host, boot, container = _place()
    # A machine's name may change while it runs.
    return (named.boot, named.container) == (boot, container) and bool(boot or named.host == host)


def is_alive(name: str) -> bool:
    """Whether the named process still runs. Those of other machines and containers can't be seen, and are taken to be alive."""
    try:
        named = _Name.read(name)
    except ValueError:
        # An earlier version's HOST:PID:TIME; it does not run beside this one.
        return name.split(":")[0] != socket.gethostname()
    host, boot, _ = _place()
    if not is_here(name):
        return named.host != host or named.boot == boot
    born = birth(named.pid)
    return born is not None and (born == named.birth or HIDDEN in (born, named.birth))


def lives(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    return birth(pid) is not None


def birth(pid: int) -> str | None:
    """When a process began, the same for all who ask and however the clock is set; None if it does not run."""
    if not (PROC / "self" / "stat").exists():
        return _created(pid)
    try:
        # The program's name may hold anything, and ends with the last parenthesis; then comes field 3, the state.
        fields = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        with contextlib.suppress(OverflowError):
            return HIDDEN if psutil.pid_exists(pid) else None
        return None
    return None if len(fields) < 20 or fields[0] in "ZX" else fields[19]


def _created(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.0f}"
    except psutil.NoSuchProcess:
        return None


@cache
def _place() -> tuple[str, str, str]:
    """(host, boot, container)."""
    try:
        boot = (PROC / "sys" / "kernel" / "random" / "boot_id").read_text(encoding="ascii").strip()
        container = str((PROC / "self" / "ns" / "pid").stat().st_ino)
    except OSError:
        boot = container = ""
    return socket.gethostname(), boot, container
