"""Where a source's files are: a user's own file or folder, or a data set's folder in the hub's layout, downloaded if need be."""

from __future__ import annotations

import os
from pathlib import Path

from moslim_core.data.catalogue import HubSet
from moslim_core.data.tables import FORMATS, SUFFIXES
from moslim_core.errors import UserError

# The split that a file states by its name, which may end in numbered parts: train-00000-of-00002.parquet.
SPLITS = {"train": ("train",), "validation": ("validation", "val", "valid", "dev"), "test": ("test",)}

SplitFile = tuple[str | None, Path]


def place_of(source: str, path: Path | None, several: bool) -> Path | None:
    """`data.path` for one source; for several, what is named like this one in that folder, if anything is."""
    if path is None or not several:
        return path
    return next((p for p in (path / f"{source}{suffix}" for suffix in ("", *FORMATS.get(source, ()))) if os.path.exists(p)), None)


def own_files(source: str, path: Path | None, several: bool) -> list[SplitFile]:
    """(split, file) of the user's own files: one file, which states no split, or a folder's train, val and test files.

    Raises UserError if they are not there or are of another format than `source`.
    """
    suffixes = FORMATS[source]
    kind = " or ".join(suffixes)
    if path is None:
        needed = f"a folder named {source} in data.path" if several else "data.path"
        raise UserError(f"data.source={source} needs {needed}.\nGive a {kind} file, or a folder with train{suffixes[0]}.")
    if not os.path.exists(path):
        raise UserError(f"data.path={path}: there is no such file or folder.\nGive a {kind} file, or a folder.")
    if path.is_file():
        other = next((f for f, ends in FORMATS.items() if f != source and path.name.lower().endswith(ends)), None)
        if other:
            raise UserError(f"data.path={path} is a {other} file.\nSet data.source={other}.")
        return [(None, path)]
    files: list[SplitFile] = [
        (split, file)
        for split, names in SPLITS.items()
        for name in names
        for suffix in suffixes
        for file in [*path.glob(f"{name}{suffix}"), *sorted(path.glob(f"{name}-*{suffix}"))]
    ]
    if not any(split == "train" for split, _ in files):
        wanted = " or ".join(f"train{suffix}" for suffix in suffixes)
        raise UserError(f"data.path={path}: the folder has no {wanted}.\nName the training file so, or give a file.")
    return files


def hub_files(source: str, hub_set: type[HubSet], path: Path | None) -> tuple[list[SplitFile], str]:
    """(files with the splits that they state, the commit they are of) of a hub data set, from `path` where one is given.

    A folder may hold a part of the files. Raises UserError if it holds none, or if the hub can't be reached.
    """
    folder, revision = (path, "of the files in data.path") if path else _download(source, hub_set)
    files = [(split, folder / name) for name, split in hub_set.files.items() if (folder / name).is_file()]
    if not files:
        raise UserError(f"{folder}: no file of {source} is there.\nGive a folder with {', '.join(hub_set.files)}, or a part of these.")
    return files, revision


def _download(source: str, hub_set: type[HubSet]) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(hub_set.hub, repo_type="dataset", revision=hub_set.revision, allow_patterns=list(hub_set.files)))
    except Exception as error:  # whatever the hub's client, and the HTTP library beneath it, raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"data.source={source}: {hub_set.hub} can't be downloaded ({reason}).\n"
            f"Check the network, or give data.path with a folder that holds {', '.join(hub_set.files)}."
        ) from error
    return folder, folder.name


def prompt_files(path: Path) -> list[Path]:
    """The file, or the tables in the folder. Raises UserError if there are none."""
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.name.endswith(SUFFIXES))
        if not files:
            raise UserError(f"policy.prompts={path}: the folder has no {', '.join(SUFFIXES)} file.\nGive a file of prompts.")
        return files
    if not os.path.exists(path):
        raise UserError(f"policy.prompts={path}: there is no such file.\nGive a {', '.join(SUFFIXES)} file, or a folder of them.")
    return [path]
