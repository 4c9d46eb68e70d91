"""Whether a folder can be a work directory: told before anything is written."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from moslim_core.errors import UserError

# The servers' new databases take about this much.
ROOM_BYTES = 10_000_000
# SQLite opens paths of up to 512 bytes, and its files stand two levels below.
LONGEST_BYTES = 460
LONGEST_NAME_BYTES = 255
# What runs write. Models may be a folder that is shared, and only read.
OURS = ("mlflow", "prefect", "locks", "stages", "cache", "latest", "up.json", "up.log", "up.lock")
# What of it is a folder, a file, or a link: another in its place would end a run when it gets there.
FOLDERS = (
    *OURS[:6], "mlflow/artifacts", "mlflow/copies", "prefect/storage", "prefect/users", "cache/answers", "cache/datasets", "cache/home",
    "cache/matplotlib", "cache/torch", "comparisons", "models", "studio",
)  # fmt: skip
FILES = (
    *OURS[6:], "mlflow/mlflow.db", "mlflow/init.lock", "prefect/prefect.db", "prefect/server.lock", "prefect/server.json",
    "cache/answers.sqlite", "latest/report.html", "latest/summary.json", "studio/history.jsonl", "studio/cookies.key",
)  # fmt: skip
LINKS = ("latest/reward_model", "latest/policy", "latest/data_card.html")
HELP = "Give a folder of yours with --work-dir PATH or --set work_dir=PATH."


def made(work_dir: Path) -> Path:
    """The work directory as an absolute path, made if it is not there. Raises UserError if it can't be written, or its name kept."""
    work_dir = absolute(work_dir)
    _check_name(work_dir)
    _check_folder(work_dir)
    return work_dir


def existing(work_dir: Path) -> Path:
    """`made` for a command that makes none. Raises UserError where there is none."""
    work_dir = absolute(work_dir)
    if not any(os.path.isfile(work_dir / "mlflow" / name) for name in ("init.lock", "mlflow.db")):
        raise UserError(
            f"{work_dir} is no work directory: it has no mlflow/mlflow.db.\nGive one that a run has used, with --work-dir PATH."
        )
    _check_name(work_dir)
    _check_kinds(work_dir)
    _check_owned(work_dir)
    return work_dir


def absolute(work_dir: Path) -> Path:
    """The work directory as a whole path. Raises UserError where it can't be made one."""
    try:
        return work_dir.expanduser().absolute()
    except (RuntimeError, OSError) as error:
        # No home (RuntimeError), or the current directory is gone.
        raise UserError(f"work_dir={work_dir} can't be made a whole path ({error}).\n{HELP}") from error


def nearest(work_dir: Path) -> Path:
    """The work directory, or the nearest one above it that is there."""
    return next(place for place in (work_dir, *work_dir.parents) if place.exists())


def require_writable(work_dir: Path, place: Path) -> None:
    """Raises UserError where no file can be made in `place`, which is `work_dir` or where it would be made."""
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise _unwritable(work_dir, error) from error


def _unwritable(work_dir: Path, error: OSError) -> UserError:
    reason = "it is a file" if error.errno == errno.EEXIST else error.strerror or error
    return UserError(f"work_dir={work_dir} can't be written ({reason}).\n{HELP}")


def _check_name(work_dir: Path) -> None:
    """Refuse what a library can't take in a path."""
    name = str(work_dir)
    try:
        length = max(len(name.encode()), len(os.path.realpath(work_dir).encode()))
    except UnicodeEncodeError:
        raise UserError(f"work_dir={name!r} is not UTF-8, which SQLite needs.\n{HELP}") from None
    # An address of a database (SQLAlchemy) ends at a question mark; libraries drop line ends from it.
    if refused := [character for character in name if character in "?\x7f" or character < " "]:
        raise UserError(f"work_dir={name!r}: {refused[0]!r} can't stand in the address of a database below it.\n{HELP}")
    if length > LONGEST_BYTES:
        raise UserError(f"work_dir has {length} bytes, and SQLite takes {LONGEST_BYTES} at most: ...{name[-60:]}\n{HELP}")
    if (longest := max(len(part.encode()) for part in work_dir.parts)) > LONGEST_NAME_BYTES:
        raise UserError(f"work_dir has a name of {longest} bytes, and file systems take {LONGEST_NAME_BYTES} at most.\n{HELP}")


def _check_folder(work_dir: Path) -> None:
    """Make the folder. Refuse one that can't be written, is full, or is somebody else's."""
    try:
        disk = shutil.disk_usage(nearest(work_dir))
        # Of some file systems no size is known.
        full = disk.total > 0 and disk.free < ROOM_BYTES
        if not full:
            work_dir.mkdir(parents=True, exist_ok=True)
            require_writable(work_dir, work_dir)
    except OSError as error:
        raise _unwritable(work_dir, error) from error
    if full:
        raise UserError(f"work_dir={work_dir}: its disk is full ({disk.free / 1e6:.1f} MB are free).\nMake room. {HELP}")
    _check_kinds(work_dir)
    _check_owned(work_dir)


def _check_kinds(work_dir: Path) -> None:
    """Refuse a folder in which something else stands where runs keep a folder, a file or a link."""
    for name in (*FOLDERS, *FILES, *LINKS):
        path = work_dir / name
        if not os.path.lexists(path):
            continue
        if path.is_symlink() and not path.exists() and name not in LINKS:
            raise UserError(f"{path} is a link that leads nowhere.\nRemove it, or put back what it led to.")
        if name in FOLDERS and not path.is_dir():
            raise UserError(f"{path} is a file, and runs keep a folder there.\nMove it away. {HELP}")
        if name not in FOLDERS and path.is_dir() and not (name in LINKS and path.is_symlink()):
            kind = "link" if name in LINKS else "file"
            raise UserError(f"{path} is a folder, and runs keep a {kind} there.\nMove it away. {HELP}")


def _check_owned(work_dir: Path) -> None:
    """Refuse a folder in which another user, or root, left what this one can't write: locks, databases, stages half done."""
    for place in (work_dir / name for name in OURS):
        for path in (place, *(place.iterdir() if place.is_dir() and _usable(place) else ())):
            if path.exists() and not path.is_symlink() and not _usable(path):
                raise UserError(f"{path} belongs to {_owner(path)}, and you can't write it: a work directory is for one user.\n{HELP}")


def _usable(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0))


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except (KeyError, OSError, NotImplementedError):
        return f"user {path.stat().st_uid}"
