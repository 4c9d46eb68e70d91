"""What lies in a work directory and nothing refers to any more: attempts, locks, copies from a server, answers kept for evaluations.

Outputs of finished runs stand in the ledger and are no part of this. What a process holds a lock on stays, whatever its age.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.ledger.ledger import FINGERPRINT, Ledger
from tasks.ledger.of_work_dir import ledger_of

DAY = 86_400.0
FINGERPRINTED, COPY = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{16}(\.partial)?")
LOCK = re.compile(r"([0-9a-f]{64}|registry-[\w.-]+)\.lock")


@dataclass
class Swept:
    """Of one kind: how many were removed (in a dry run: would be), their bytes, and how many stay."""

    kind: str
    removed: list[Path] = field(default_factory=list)
    bytes: int = 0
    remaining: int = 0


class Sweep:
    """One cleaning of a work directory: what was used within `days` stays. A dry run changes nothing."""

    def __init__(self, work_dir: Path, days: float, dry: bool) -> None:
        self.work_dir, self.dry = work_dir, dry
        self.before = time.time() - days * DAY
        self.ledger: Ledger = ledger_of(work_dir)
        self.locks = work_dir / "locks"

    def run(self) -> list[Swept]:
        """Everything, in an order in which what is left of a stage keeps its lock."""
        stages = self._stages()
        working = not all(map(self._is_free, _named(self.locks, LOCK)))
        copies = self._aged("copies of outputs", self.work_dir / "mlflow" / "copies", COPY, working)
        answers = self._aged("cached answers", self.work_dir / "cache" / "answers", FINGERPRINTED, working)
        return [stages, self._unheld(stages), copies, answers]

    def _stages(self) -> Swept:
        """Attempts whose stage was finished since, or that nobody has taken up for long; a younger one goes on where it stopped."""
        swept = Swept("attempts of stages")
        for folder in _named(self.work_dir / "stages", FINGERPRINTED):
            with self._held(self.locks / f"{folder.name}.lock") as held:
                self._decide(swept, folder, held and (self._is_finished(folder.name) or _used(folder) < self.before))
        return swept

    def _unheld(self, stages: Swept) -> Swept:
        """Locks that nobody holds, but for those of attempts that stay."""
        swept = Swept("locks")
        gone = {folder.name for folder in stages.removed}
        for file in _named(self.locks, LOCK):
            waiting = (self.work_dir / "stages" / file.stem).exists() and file.stem not in gone
            with self._held(file) as held:
                self._decide(swept, file, held and not waiting)
        return swept

    def _aged(self, kind: str, place: Path, names: re.Pattern[str], working: bool) -> Swept:
        """What nobody has used for long. While a stage works, which may read any of it, all stays; so does what `latest` shows."""
        swept = Swept(kind)
        shown = {link.resolve() for link in (self.work_dir / "latest").glob("*") if link.is_symlink()}
        for folder in _named(place, names):
            with self._held(folder.with_name(f"{folder.name}.lock")) as held:
                linked = any(path.is_relative_to(folder.resolve()) for path in shown)
                self._decide(swept, folder, held and not working and not linked and folder.stat().st_mtime < self.before)
                if not folder.exists():
                    folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)
        return swept

    def _decide(self, swept: Swept, path: Path, unused: bool) -> None:
        if not unused:
            swept.remaining += 1
            return
        swept.removed.append(path)
        swept.bytes += _bytes(path)
        if self.dry:
            return
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def _is_finished(self, fingerprint: str) -> bool:
        where = f"tags.`{FINGERPRINT}` = '{fingerprint}' and attributes.status = 'FINISHED'"
        return bool(self.ledger.client.search_runs([self.ledger.experiment_id], where, max_results=1))

    def _is_free(self, file: Path) -> bool:
        with self._held(file) as held:
            return held

    @contextlib.contextmanager
    def _held(self, file: Path) -> Iterator[bool]:
        """Whether a lock could be had, which is then held. Where there is no file nobody holds it, and none is made."""
        if not file.exists():
            yield True
            return
        lock = FileLock(str(file))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def _named(place: Path, names: re.Pattern[str]) -> list[Path]:
    """What stages made in a folder; anything else there is somebody's own."""
    return sorted(path for path in place.glob("*") if names.fullmatch(path.name) and not path.is_symlink())


def _used(folder: Path) -> float:
    """When something in a folder last changed, in seconds since the epoch."""
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))


def _bytes(path: Path) -> int:
    return sum(file.lstat().st_size for file in (path, *path.rglob("*")) if not file.is_dir())
