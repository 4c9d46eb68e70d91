"""How a stage tells what it is doing: metric points and progress, as JSON lines that another process can follow."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any


class Progress:
    """Appends events to a file. Without a path it is silent, so that the library works in a notebook.

    Events: {"event": "metrics", "step": int, "values": {...}} and {"event": "progress", "phase": str, "done": n, "total": n}.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        if path is not None and path.is_file():
            # A full disk may have cut off the last line of an earlier attempt.
            written = path.read_bytes()
            whole = written.rfind(b"\n") + 1
            # Not without need: another process of this stage may be writing already.
            if whole < len(written):
                os.truncate(path, whole)

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Numbers of one step. What is not finite is left out: a store would turn it into a false number."""
        clean = {k: float(v) for k, v in values.items() if v is not None and math.isfinite(v)}
        self._write({"event": "metrics", "step": step, "values": clean})

    def update(self, phase: str, done: int, total: int) -> None:
        """`done` of `total` units of `phase`."""
        self._write({"event": "progress", "phase": phase, "done": done, "total": total})

    def _write(self, event: dict[str, Any]) -> None:
        if self.path is None:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**event, "time": time.time()}) + "\n")
