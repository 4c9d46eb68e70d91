"""Packages of others that add to the registries: distributions that are installed here and have entry points `moslim.plugins`. (ours)

An entry point names a module; importing it is all that happens, as its decorators do the rest (docs/extending.md).
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from threading import RLock

from moslim_core.errors import UserError

GROUP = "moslim.plugins"

_lock = RLock()
# Plug-ins whose import has begun: one that asks a registry while it is imported finds what is there by then.
_begun: set[EntryPoint] = set()


@cache
def installed() -> tuple[EntryPoint, ...]:
    """Their entry points, by name."""
    return tuple(sorted(entry_points(group=GROUP), key=lambda point: point.name))


def load() -> None:
    """Import them all, once in a process. Raises UserError, naming the one that can't be imported."""
    with _lock:
        for point in installed():
            if point in _begun:
                continue
            _begun.add(point)
            try:
                point.load()
            except (Exception, SystemExit) as error:  # whatever the code of others raises
                _begun.discard(point)
                said = " ".join(str(error).split("\n", 1)[0].split())[:200]
                raise UserError(
                    f"the plug-in {about(point)} can't be imported: {type(error).__name__}: {said}\n"
                    f"Mend {point.module}, or leave the plug-in out: pip uninstall {point.dist.name if point.dist else point.name}."
                ) from error


def about(point: EntryPoint) -> str:
    """Its name, and what it came with."""
    return f"{point.name} ({point.dist.name} {point.dist.version})" if point.dist else f"{point.name} ({point.value})"


def maker(module: str) -> dict[str, str]:
    """{distribution, version, code} of the plug-in that a module belongs to; `code`: a digest of its package's files.

    Raises UserError for a module of none: the process that does a stage's work would not know it.
    """
    parts = module.split(".")
    own = [point for point in installed() if point.module.split(".")[0] == parts[0]]
    # Several may share a namespace package: the nearest one has it.
    point = max(own, key=lambda point: sum(a == b for a, b in zip(parts, point.module.split("."), strict=False)), default=None)
    if point is None or point.dist is None:
        raise UserError(
            f"{module} registers what a stage needs, but no installed plug-in has it, and a stage works in a process of its own.\n"
            f"Install it as a distribution with an entry point of the group {GROUP} (docs/extending.md)."
        )
    return {"distribution": point.dist.name, "version": point.dist.version, "code": _digest(parts[0])}


@cache
def _digest(package: str) -> str:
    spec = find_spec(package)
    places = list(spec.submodule_search_locations or [spec.origin or ""]) if spec else []
    files = [(place, file) for place in map(Path, places) for file in sorted(place.rglob("*") if place.is_dir() else [place])]
    digest = hashlib.sha256()
    for place, file in files:
        if file.is_file() and file.suffix != ".pyc":
            digest.update(f"{file.relative_to(place) if file != place else file.name}\0{file.stat().st_size}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
