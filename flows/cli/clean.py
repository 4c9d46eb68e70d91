"""`moslim clean`: remove what a work directory keeps and nothing refers to."""

from __future__ import annotations

from pathlib import Path

import typer

from tasks.ledger.cleaning import Sweep


def clean_up(work_dir: Path, days: float, dry: bool) -> None:
    """Say for each kind how many are removed and how large they are; a dry run removes nothing."""
    for swept in Sweep(work_dir, days, dry).run():
        gone, stays = ("would be removed", "would stay") if dry else ("removed", "kept")
        typer.echo(f"{swept.kind:<18}  {len(swept.removed)} {gone}, {swept.bytes / 1e6:.1f} MB; {swept.remaining} {stays}")
