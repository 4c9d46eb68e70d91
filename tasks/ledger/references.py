"""What travels between tasks: references to outputs, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

MANIFEST = "manifest.json"
# Bytes; no file system takes a longer path.
LONGEST_NAME = 4096
STAGE_FILE = "stage.json"
# What a report found, in its output.
FINDINGS = "findings.json"
# Seconds and memory differ between runs with the same result, so they do not count in its digest.
_UNCOUNTED = (MANIFEST, STAGE_FILE)


class _Listed(TypedDict):
    """What a manifest says of a file."""

    bytes: int
    sha256: str


_LISTED = TypeAdapter(dict[str, _Listed])


class ArtifactRef(BaseModel):
    """An output of a stage: where it is, what it must be, which run made it."""

    model_config = ConfigDict(frozen=True)

    kind: str
    uri: str
    digest: str
    run_id: str


class Outcome(BaseModel):
    """A stage's output and what it cost; `cached` if an earlier run made it."""

    ref: ArtifactRef
    stage: str
    cached: bool
    seconds: float
    peak_memory_gb: float
    metrics: dict[str, float]


def digest_of(value: Any) -> str:
    """sha256 of JSON data, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of the content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_digest(path: Path | None) -> str | None:
    """Digest of a file's bytes or of all files below a folder, by relative name; None for no path or a missing one."""
    if path is None or not os.path.exists(path):
        return None
    if path.is_file():
        return file_digest(path)
    return digest_of({str(f.relative_to(path)): file_digest(f) for f in sorted(_files(path)) if f.is_file()})


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, in folders that links lead to as well, each of those once."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(place, name) for name in names)


def write_manifest(directory: Path) -> str:
    """Record size and sha256 of every file below `directory`; returns the digest of the whole."""
    files = {
        str(f.relative_to(directory)): {"bytes": f.stat().st_size, "sha256": file_digest(f)}
        for f in sorted(directory.rglob("*"))
        if f.is_file() and f.name != MANIFEST
    }
    (directory / MANIFEST).write_text(json.dumps(files, indent=1), encoding="utf-8")
    return _digest(files)


def intact_digest(directory: Path) -> str | None:
    """The digest of `directory` if every file of its manifest is there unchanged, else None."""
    manifest = directory / MANIFEST
    if not manifest.is_file():
        return None
    try:
        files = _LISTED.validate_json(manifest.read_bytes())
    except ValidationError:
        return None
    for name, recorded in files.items():
        file = directory / name
        # A manifest comes with the files that it lists, and must not point elsewhere.
        if (
            "\0" in name
            or len(name.encode(errors="replace")) > LONGEST_NAME
            or not file.resolve().is_relative_to(directory.resolve())
            or not file.is_file()
            or file.stat().st_size != recorded["bytes"]
            or file_digest(file) != recorded["sha256"]
        ):
            return None
    return _digest(files)


def _digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    return digest_of({name: recorded["sha256"] for name, recorded in files.items() if name not in _UNCOUNTED})
