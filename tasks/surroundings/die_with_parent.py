"""`python -m tasks.surroundings.die_with_parent PARENT COMMAND...`: become COMMAND, and die with PARENT, however it dies (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """End this process when its `parent` ends, however it does (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("the parent process is gone")


def main() -> None:
    """Become COMMAND, which dies with PARENT."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    die_with(parent)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
