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
    if store.is_dir() and not own.exists():
        shutil.copytree(store, own)
    yield own
    if own.is_dir():
        store.mkdir(parents=True, exist_ok=True)
        for file in own.glob("*.jsonl"):
            unfinished = store / f"{file.name}.{os.getpid()}"
            shutil.copyfile(file, unfinished)
            unfinished.replace(store / file.name)
