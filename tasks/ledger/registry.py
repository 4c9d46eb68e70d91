"""Versions of a policy in MLflow's registry: `champion` is what serves, `challenger` what was trained last; every move stays on record.

A move is written ahead: its tag says what is meant, then the aliases move, then the tag says that it is done. Whoever comes after a
kill finds a move that is not done, and finishes it first.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil
from filelock import FileLock
from pydantic import BaseModel

from moslim_core.errors import UserError
from tasks.ledger.ledger import DIGEST, OUTPUT, Ledger
from tasks.ledger.of_work_dir import folder_of, ledger_of
from tasks.ledger.references import ArtifactRef, intact_digest

# The registered model that policies are versions of, unless another name is given.
POLICY = "policy"
CHAMPION, CHALLENGER = "champion", "challenger"
MOVE = "moslim.move."
STAGE_NAME = "train_policy"
# MLflow cuts no tag of a model; it refuses one of more than 5000 characters.
WHY_LIMIT = 3000
LONGEST_NAME = 200
ABOUT = (
    f"Policies that follow preferences stated in the prompt. `{CHAMPION}` is what serves, `{CHALLENGER}` what retraining made last; "
    "`moslim promote` and `moslim rollback` move them."
)


class Move(BaseModel):
    """An alias that went `from_version` (None: nowhere) to `version`."""

    kind: Literal["challenge", "promote", "rollback"]
    version: str
    from_version: str | None
    who: str
    when: str
    why: str
    done: bool = False

    @property
    def alias(self) -> str:
        return CHALLENGER if self.kind == "challenge" else CHAMPION


class Registry:
    """The versions of one policy. One process at a time moves its aliases."""

    def __init__(self, work_dir: Path, name: str) -> None:
        # It stands in addresses (models:/NAME@ALIAS) and in a lock's file name.
        if not re.fullmatch(r"[\w.-]+", name) or not name.strip(".") or len(name.encode()) > LONGEST_NAME:
            raise UserError(
                f"--name {name[:60]!r}: letters, digits, points, dashes and underscores make a name, {LONGEST_NAME} bytes at most.\n"
                "Give another, e.g. policy."
            )
        self.name = name
        self.ledger: Ledger = ledger_of(work_dir)
        self.client = self.ledger.client
        (work_dir / "locks").mkdir(exist_ok=True)
        self._lock = FileLock(str(work_dir / "locks" / f"registry-{name}.lock"))

    def version_at(self, alias: str) -> str | None:
        """The version that has an alias."""
        return self._aliases().get(alias)

    def policy(self, version: str) -> ArtifactRef:
        """The policy of a version. Raises UserError if there is no such version, or it is no longer what was registered."""
        from mlflow.exceptions import MlflowException

        try:
            entry = self.client.get_model_version(self.name, version)
            intact = intact_digest(self.ledger.download(str(entry.source)))
        except (MlflowException, OSError) as error:
            raise UserError(
                f"{self.name} {version}: not there any more ({str(error).splitlines()[0]}).\nPromote another version."
            ) from error
        if intact is None or intact != entry.tags.get(DIGEST):
            raise UserError(f"{self.name} {version}: files of {entry.source} have changed.\nPromote another version, or train it again.")
        return ArtifactRef(kind="policy", uri=str(entry.source), digest=intact, run_id=str(entry.run_id))

    def register(self, policy: ArtifactRef, text: str | None = None) -> str:
        """The version of a finished policy, described by `text`, else by the run that made it; one that is there already keeps its own
        description unless `text` is given."""
        from mlflow.exceptions import MlflowException

        with self._lock:
            try:
                self.client.create_registered_model(self.name, description=ABOUT)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            for known in self.client.search_model_versions(f"name = '{self.name}'"):
                if known.source == policy.uri:
                    if text is not None:
                        self.client.update_model_version(self.name, str(known.version), text)
                    return str(known.version)
            about = self._made_by(policy.run_id) if text is None else text
            made = self.client.create_model_version(self.name, policy.uri, policy.run_id, tags={DIGEST: policy.digest}, description=about)
            return str(made.version)

    def _made_by(self, stage_run: str) -> str:
        """The pipeline whose stage made a policy: its run's name after those above it, and its report's headline if it has one."""
        from mlflow.exceptions import MlflowException

        # They load the hub's client, which no other command of the registry needs.
        from tasks.ledger.export_facts import RUN_OF
        from tasks.ledger.references import FINDINGS

        run, above, headline = self.client.get_run(stage_run), [], ""
        # Runs and outputs may have been removed since: a policy is registered all the same.
        with contextlib.suppress(MlflowException, OSError):
            while parent := run.data.tags.get("mlflow.parentRunId"):
                run = self.client.get_run(parent)
                above.append(run)
            if above and (report := above[0].data.tags.get(f"{RUN_OF}report")):
                findings = self.ledger.download(f"runs:/{report}/{OUTPUT}") / FINDINGS
                headline = json.loads(findings.read_text(encoding="utf-8"))["headline"]
        names = [of.info.run_name for of in reversed(above)] or [STAGE_NAME]
        return f"{', '.join(names)}. {headline}".rstrip()

    def challenge(self, version: str, why: str) -> Move | None:
        """Make a version the challenger; None if it is."""
        with self._moving():
            return self._move("challenge", version, why)

    def promote(self, version: str, why: str) -> Move | None:
        """Make a version the champion; None if it is. Raises UserError if its files are not what was registered."""
        self.policy(version)
        with self._moving():
            return self._move("promote", version, why)

    def rollback(self, why: str) -> Move:
        """Make the champion before this one the champion again. Raises UserError if there was none.

        After a rollback that was cut short, this finishes it, and does not go back once more.
        """
        with self._moving() as unfinished:
            if unfinished is not None and unfinished.kind == "rollback":
                return unfinished
            earlier: list[str | None] = []
            for past in self.moves():
                if past.kind == "promote":
                    earlier.append(past.from_version)
                elif past.kind == "rollback":
                    earlier.pop()
            version = earlier[-1] if earlier else None
            if version is None:
                raise UserError(f"{self.name}: there is no champion before this one.\nPromote a policy: moslim promote --policy REF.")
            self.policy(version)
            move = self._move("rollback", version, why)
            if move is None:
                raise UserError(f"{self.name}: the champion was moved to version {version} by hand.\nPromote: moslim promote --policy REF.")
            return move

    def tell(self, version: str, **facts: str) -> None:
        """Put facts beside a version, as tags."""
        for key, value in facts.items():
            self.client.set_model_version_tag(self.name, version, f"moslim.{key}", value[:WHY_LIMIT])

    def moves(self) -> list[Move]:
        """All moves, the oldest first."""
        tags = self._model().tags
        return [Move.model_validate_json(tags[key]) for key in sorted(tags) if key.startswith(MOVE)]

    @contextlib.contextmanager
    def _moving(self) -> Iterator[Move | None]:
        """Alone, and after the last move is done; that move, if a kill had left it undone."""
        with self._lock:
            moves = self.moves()
            if moves and not moves[-1].done:
                self._carry_out(moves[-1], len(moves))
                yield moves[-1]
            else:
                yield None

    def _move(self, kind: Literal["challenge", "promote", "rollback"], version: str, why: str) -> Move | None:
        move = Move(
            kind=kind,
            version=version,
            from_version=None,
            who=f"{psutil.Process().username()}@{socket.gethostname()}",
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            why=why[:WHY_LIMIT],
        )
        move.from_version = self.version_at(move.alias)
        if move.from_version == version:
            return None
        number = len(self.moves()) + 1
        self._record(move, number)
        self._carry_out(move, number)
        return move

    def _carry_out(self, move: Move, number: int) -> None:
        self.client.set_registered_model_alias(self.name, move.alias, move.version)
        if move.kind == "promote" and self.version_at(CHALLENGER) == move.version:
            self.client.delete_registered_model_alias(self.name, CHALLENGER)
        move.done = True
        self._record(move, number)

    def _record(self, move: Move, number: int) -> None:
        self.client.set_registered_model_tag(self.name, f"{MOVE}{number:06d}", move.model_dump_json())

    def _model(self) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise UserError(f"--name {self.name}: nothing is registered under it.\nPromote: moslim promote --policy REF.") from error

    def _aliases(self) -> dict[str, str]:
        try:
            return {alias: str(version) for alias, version in self._model().aliases.items()}
        except UserError:
            return {}


def trained_policy(reference: str, work_dir: Path) -> ArtifactRef:
    """The finished policy that a folder, runs:/ or models:/ reference names. Raises UserError where there is none on record."""
    from moslim_core.policy.artifact import PolicyCard

    folder = folder_of(reference, work_dir)
    PolicyCard.load(folder)
    digest = intact_digest(folder)
    ref = ledger_of(work_dir).made(STAGE_NAME, digest) if digest else None
    if ref is None:
        raise UserError(
            f"{reference}: no finished run of {work_dir} made this policy, or its files have changed.\n"
            "Give what `moslim policy` or `moslim run` wrote, with its --work-dir."
        )
    return ref
