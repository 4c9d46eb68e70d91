"""Text in and out, whatever locale this process was started in: files are UTF-8, and a terminal gets what it can show."""

from __future__ import annotations

import locale
import os
import sys


def speak_utf8() -> None:
    """Start this program anew in Python's UTF-8 mode if its locale has another encoding: libraries open files without naming one.

    The terminal keeps its encoding. A character that this lacks is written as an escape, and ends nothing.
    """
    if not sys.flags.utf8_mode and os.environ.get("PYTHONUTF8") != "1" and locale.getencoding().lower() not in ("utf-8", "utf8"):
        os.environ["PYTHONUTF8"] = "1"
        if sys.stdout is not None:
            os.environ.setdefault("PYTHONIOENCODING", sys.stdout.encoding)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        # There may be none, or another thing in its place.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace" if stream is sys.stdin else "backslashreplace")
    # What is started from here writes logs, which are files.
    os.environ |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
