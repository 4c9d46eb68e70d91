"""Checkpoints that neither a kill nor a bad disk can spoil: one counts only when its marker, the last file, fits all the others."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

MARKER = "complete.json"


def mark(checkpoint: Path, state: dict[str, Any]) -> None:
    """Write the marker, with `state` and every file's size and sha256 in it: the checkpoint is complete."""
    partial = checkpoint / f"{MARKER}.partial"
    partial.write_text(json.dumps({"state": state, "files": _files(checkpoint)}))
    partial.rename(checkpoint / MARKER)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was taken."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def intact(checkpoint: Path) -> dict[str, Any] | None:
    """The state in a checkpoint's marker; None if there is no marker, or a file is not as the marker says."""
    try:
        marker = json.loads((checkpoint / MARKER).read_text())
        state: dict[str, Any] = marker["state"]
        files = _files(checkpoint)
    except (OSError, ValueError, KeyError):
        return None
    return state if all(files.get(name) == recorded for name, recorded in marker["files"].items()) else None


def last_complete(directory: Path) -> tuple[Path, dict[str, Any]] | None:
    """(newest intact checkpoint, the state in its marker); newer ones that are not are removed. None where there is none."""
    for folder in sorted(directory.glob("checkpoint-*"), key=step_of, reverse=True):
        state = intact(folder)
        if state is not None:
            return folder, state
        shutil.rmtree(folder, ignore_errors=True)
    return None


def keep_last(directory: Path, count: int) -> None:
    """Remove all but the newest checkpoints."""
    for folder in sorted(directory.glob("checkpoint-*"), key=step_of)[:-count]:
        shutil.rmtree(folder, ignore_errors=True)


def _files(folder: Path) -> dict[str, list[Any]]:
    """{relative name: [bytes, sha256]} of everything but the marker."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (MARKER, f"{MARKER}.partial"):
            with path.open("rb") as file:
                files[path.relative_to(folder).as_posix()] = [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]
    return files
