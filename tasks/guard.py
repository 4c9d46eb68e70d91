"""`python -m tasks.guard PARENT COMMAND...`: become COMMAND, and die with PARENT, however it dies (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("the parent process is gone")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
