"""Checkpoints that a kill can't spoil: one counts only when its last file, the marker, is there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

MARKER = "complete.json"


class MarkComplete(TrainerCallback):
    """Writes the marker, with `state()` in it, after the trainer wrote everything else."""

    def __init__(self, state: Callable[[], dict[str, Any]] = dict) -> None:
        self.state = state

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        partial = folder / f"{MARKER}.partial"
        partial.write_text(json.dumps(self.state()))
        partial.rename(folder / MARKER)


def last_complete(directory: Path) -> tuple[Path, dict[str, Any]] | None:
    """(newest complete checkpoint, the state in its marker); incomplete ones are removed. None where there is none."""
    complete = []
    for folder in directory.glob("checkpoint-*"):
        if (folder / MARKER).is_file():
            complete.append(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if not complete:
        return None
    newest = max(complete, key=lambda f: int(f.name.rsplit("-", 1)[1]))
    return newest, json.loads((newest / MARKER).read_text())
