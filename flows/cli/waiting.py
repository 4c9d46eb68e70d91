"""What a person sees who waits: a bar with an ETA, or, where there is no terminal, a line every half minute at least."""

from __future__ import annotations

import threading
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Without a terminal a log says so often that work goes on.
LINE_SECONDS = 20.0
# The ETA goes by the speed over this time: a step may take a minute.
SPEED_SECONDS = 900.0


class Waiting:
    """One phase at a time: what it does, how far it is, how long it will take.

    What was done before, in an earlier try, does not count as done in no time: the ETA goes by what is done now.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Progress(
            TextColumn("{task.fields[stage]:<13}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=SPEED_SECONDS,
        )
        self.current: tuple[str, str] | None = None
        # What works without having said yet how far it is.
        self.starting = "starting"
        self.task: Any = None
        self._started = self._told = self._begun = time.monotonic()
        self._first = self._done = self._total = 0
        self._over = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Waiting:
        self.bars.start()
        if not self.console.is_terminal:
            threading.Thread(target=self._keep_telling, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.bars.stop()

    def update(self, stage: str, phase: str, done: int, total: int) -> None:
        with self._lock:
            if self.current != (stage, phase):
                self._close()
                self.current = (stage, phase)
                self.task = self.bars.add_task(phase, total=total, completed=done, stage=stage)
                self._begun, self._first = time.monotonic(), done
                self._done, self._total = done, total
                self._say(f"{stage}: {phase}")
            self._done, self._total = done, total
            self.bars.update(self.task, completed=done, total=total)

    def close(self) -> None:
        """The phase is over."""
        with self._lock:
            self._close()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        self._told = time.monotonic()

    def left(self) -> float | None:
        """Seconds that the phase will take, None where nothing can be told yet."""
        done = self._done - self._first
        return (time.monotonic() - self._begun) / done * (self._total - self._done) if done > 0 else None

    def line(self) -> str:
        """Where the work is, in one line."""
        passed = time.monotonic() - self._started
        if self.current is None:
            return f"{self.starting}, {passed:.0f} s since the start"
        stage, phase = self.current
        left = self.left()
        eta = f", about {left:.0f} s left of this" if left is not None else ""
        return f"{stage}: {phase} {self._done} of {self._total}{eta}, {passed:.0f} s since the start"

    def _close(self) -> None:
        if self.current is not None:
            self.bars.stop_task(self.task)
            self.current = None

    def _say(self, text: str) -> None:
        if not self.console.is_terminal:
            self.say(text)

    def _keep_telling(self) -> None:
        while not self._over.wait(1.0):
            if time.monotonic() - self._told >= LINE_SECONDS:
                self.say(self.line())
