"""Where benchmarks' files are: in the user's folder, or downloaded once from the public originals, pinned by revision and digest.

Nothing of a benchmark is in this package. What has no address here needs another form than its original has: give a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx

from moslim_core.data.rows import UNREADABLE, unreadable
from moslim_core.data.tables import read_table
from moslim_core.errors import UserError

T = TypeVar("T")

# Seconds without a byte.
TIMEOUT = 60.0


class File(NamedTuple):
    """`name`: its path in the folder of benchmarks; `holds`: what a row is; `origin`: whence; `url`, `sha256`: of the very file."""

    name: str
    holds: str
    origin: str
    url: str = ""
    sha256: str = ""

    @property
    def form(self) -> str:
        return f"{self.holds}; from {self.origin}."


def folder(wanted: Sequence[File], given: Path | None, cache: Path) -> Path:
    """The folder below which the files `wanted` are: the user's own if one is given, else `cache`, into which they are downloaded.

    Raises UserError if one can't be downloaded.
    """
    if given is not None:
        return given
    for file in wanted:
        if not file.url:
            raise UserError(f"{file.name} can't be downloaded in the form that is read.\nGive a folder that holds it: {file.form}")
        if not (cache / file.name).is_file():
            download(file.url, file.sha256, cache / file.name)
    return cache


def download(url: str, sha256: str, target: Path) -> None:
    """Write `target` if what is at `url` has the digest `sha256`, and nothing otherwise. Raises UserError."""
    try:
        response = httpx.get(url, timeout=TIMEOUT, follow_redirects=True)
        response.raise_for_status()
    except httpx.HTTPError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{url} can't be downloaded ({reason}).\nCheck the network, or give a folder that holds {target.name}.") from error
    if hashlib.sha256(response.content).hexdigest() != sha256:
        raise UserError(f"{url}: what came is not the file that was pinned (sha256).\nGive a folder that holds {target.name}.")
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(f"{target.name}.{os.getpid()}")
    half.write_bytes(response.content)
    half.replace(target)


def require(folder: Path, file: File) -> Path:
    """Where a file is. Raises UserError where it is not there."""
    path = folder / file.name
    if not path.is_file():
        raise UserError(f"{path}: there is no such file.\nGive a folder that holds it: {file.form}")
    return path


def records(folder: Path, file: File, made: Callable[[dict[str, Any]], T]) -> list[T]:
    """`made` of each row of a file. Raises UserError if the file is missing, or naming the row that it can't be made of."""
    path = require(folder, file)
    values = []
    for number, row in _rows(path):
        try:
            values.append(made(row))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}, row {number}: {type(error).__name__}: {error}.\nWhat a row needs: {file.form}") from error
    if not values:
        raise UserError(f"{path}: the file has no rows.\nWhat a row needs: {file.form}")
    return values


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if path.suffix != ".json":
        return read_table(path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error.msg}, line {error.lineno}).\nCopy or download it again.") from error
    except UNREADABLE as error:
        raise unreadable(path, 0, error) from error
    return iter(enumerate(rows if isinstance(rows, list) else [rows], start=1))
