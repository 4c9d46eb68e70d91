"""`moslim promote` and `moslim rollback`: which policy is the champion."""

from __future__ import annotations

from pathlib import Path

import typer

from tasks.ledger.registry import CHAMPION, Move, Registry, trained_policy


def promote_policy(work_dir: Path, reference: str, name: str, why: str) -> None:
    """Register the policy if it is not, and make it the champion. Raises UserError."""
    registry, policy = Registry(work_dir, name), trained_policy(reference, work_dir)
    version = registry.register(policy)
    _say(name, version, registry.promote(version, why))


def roll_back(work_dir: Path, name: str, why: str) -> None:
    """Make the champion before this one the champion again. Raises UserError."""
    move = Registry(work_dir, name).rollback(why)
    _say(name, move.version, move)


def _say(name: str, version: str, move: Move | None) -> None:
    was = "as it was" if move is None else f"it was version {move.from_version}" if move.from_version else "the first"
    typer.echo(f"models:/{name}@{CHAMPION} is version {version} ({was})")
