"""A stage's checkpoints in its run while it works, where the ledger is a server: a rerun on another machine goes on from there.

A checkpoint's marker goes last and has the digests of its files: what arrived in part, or was spoiled later, does not count.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tasks.ledger.ledger import Ledger
from tasks.surroundings import progress

FOLDER = "checkpoints"
KEPT = 2
LOOK_SECONDS = 1.0
# What a stage has told up to a checkpoint, and how long it took, go along with it.
BESIDE = ("events.jsonl", "seconds")


class Handover:
    """The checkpoints of the stage that works in `home`, here and in its run. On a ledger without a server only here."""

    def __init__(self, ledger: Ledger, run_id: str, home: Path) -> None:
        self.ledger, self.run_id, self.home = ledger, run_id, home
        self.folder = home / FOLDER
        # By the folder that they are in, the oldest first.
        self._sent: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)

    def fetch(self) -> None:
        """Bring the newest intact checkpoint of the run here, unless one that is here is as new."""
        from mlflow.exceptions import MlflowException

        from moslim_core.training.checkpoints import intact, step_of

        if not self.ledger.served:
            return
        for path in sorted(self._listed(FOLDER), key=lambda path: step_of(Path(path))):
            self._sent[path.parent].append(path)
        arriving = self.home / "arriving"
        for within, paths in self._sent.items():
            here = max((step_of(c) for c in self.home.joinpath(within).glob("checkpoint-*") if intact(c) is not None), default=-1)
            for path in reversed(paths):
                if step_of(Path(path)) <= here:
                    break
                shutil.rmtree(arriving, ignore_errors=True)
                arriving.mkdir()
                try:
                    checkpoint = Path(self.ledger.client.download_artifacts(self.run_id, str(path), str(arriving)))
                except (MlflowException, OSError) as error:
                    progress.tell(f"{path} of run {self.run_id} can't be had, taking the one before: {progress.first_line(error)}")
                    continue
                if intact(checkpoint) is None:
                    progress.tell(f"{path} of run {self.run_id} is not intact, taking the one before")
                    continue
                self._unpack(checkpoint, self.home / path)
                break
        shutil.rmtree(arriving, ignore_errors=True)

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """New checkpoints go to the run while the body works, beside it; when it is done, nothing is on its way any more."""
        if not self.ledger.served:
            yield
            return
        ended = threading.Event()
        # In this context, so that what it tells stands in the run's log.
        sender = threading.Thread(target=contextvars.copy_context().run, args=(self._send_new, ended), daemon=True)
        sender.start()
        try:
            yield
        finally:
            ended.set()
        sender.join()

    def discard(self) -> None:
        """Remove the checkpoints from the run: its output is there."""
        from mlflow.exceptions import MlflowException

        try:
            if self._sent:
                self.ledger.discard(self.run_id, FOLDER)
        except (MlflowException, OSError) as error:
            progress.tell(f"the checkpoints of run {self.run_id} stay in MLflow: {progress.first_line(error)}")

    def _listed(self, path: str) -> Iterator[PurePosixPath]:
        for entry in self.ledger.client.list_artifacts(self.run_id, path):
            if entry.is_dir and PurePosixPath(entry.path).name.startswith("checkpoint-"):
                yield PurePosixPath(entry.path)
            elif entry.is_dir:
                yield from self._listed(entry.path)

    def _unpack(self, checkpoint: Path, place: Path) -> None:
        # Events only grow: the longer file is of the later checkpoint.
        arrived, own = checkpoint / BESIDE[0], self.home / BESIDE[0]
        if arrived.exists() and not (own.exists() and own.stat().st_size >= arrived.stat().st_size):
            for name in BESIDE:
                (checkpoint / name).replace(self.home / name)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        checkpoint.rename(place)

    def _send_new(self, ended: threading.Event) -> None:
        from mlflow.exceptions import MlflowException

        from moslim_core.training.checkpoints import MARKER, step_of

        while not ended.wait(LOOK_SECONDS):
            newest: dict[Path, Path] = {}
            for marker in self.folder.rglob(f"checkpoint-*/{MARKER}"):
                checkpoint = marker.parent
                newest[checkpoint.parent] = max(newest.get(checkpoint.parent, checkpoint), checkpoint, key=step_of)
            for checkpoint in newest.values():
                path = PurePosixPath(checkpoint.relative_to(self.home).as_posix())
                try:
                    if path not in self._sent[path.parent]:
                        self._send(checkpoint, path)
                except (MlflowException, OSError) as error:
                    # A server that is away, or a checkpoint that just gave way to a newer one: there is a next time.
                    progress.tell(f"{path} was not sent to MLflow: {progress.first_line(error)}")

    def _send(self, checkpoint: Path, path: PurePosixPath) -> None:
        from moslim_core.training.checkpoints import MARKER

        parcel = self.home / "leaving"
        shutil.rmtree(parcel, ignore_errors=True)
        # Links: the trainer may remove its own meanwhile.
        shutil.copytree(checkpoint, parcel / "files", ignore=shutil.ignore_patterns(MARKER), copy_function=os.link)
        os.link(checkpoint / MARKER, parcel / MARKER)
        for name in BESIDE:
            shutil.copyfile(self.home / name, parcel / "files" / name)
        self.ledger.client.log_artifacts(self.run_id, str(parcel / "files"), str(path))
        self.ledger.client.log_artifact(self.run_id, str(parcel / MARKER), str(path))
        sent = self._sent[path.parent]
        sent.append(path)
        while len(sent) > KEPT:
            self.ledger.discard(self.run_id, str(sent[0]))
            del sent[0]
