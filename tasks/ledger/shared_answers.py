"""Answers that evaluations share: what one drew from a model, the next that asks the same of it does not draw again. (ours)"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def shared(own: Path, store: Path) -> Iterator[Path]:
    """The folder `own` of an evaluation's answers, which begins with those in `store`, and at the end adds its own to them.

    `store` is of one model under one seed. Evaluations may run side by side: each has a folder of its own, and of two that end at once
    one's files stay. What is interrupted goes on with what `own` has.
    """
    if store.exists():
        # What was used lately is not cleaned away.
        os.utime(store)
    if not own.exists():
        own.mkdir(parents=True)
        _copy(store, own)
    yield own
    store.mkdir(parents=True, exist_ok=True)
    _copy(own, store)


def _copy(source: Path, to: Path) -> None:
    """Every file of answers appears as a whole; one that another process is about to write is left out."""
    for file in source.glob("*.jsonl"):
        unfinished = to / f"{file.name}.{os.getpid()}"
        shutil.copyfile(file, unfinished)
        unfinished.replace(to / file.name)
