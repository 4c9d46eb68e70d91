"""The ledger of a work directory, and the folders that references to its runs lead to."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from moslim_core.errors import UserError
from tasks.ledger.ledger import Ledger


@cache
def ledger_of(work_dir: Path) -> Ledger:
    """The ledger of a work directory, opened once per process."""
    return Ledger(work_dir)


def is_of_run(reference: str) -> bool:
    """Whether a reference is one that the store of runs knows, and not a folder."""
    return reference.startswith(("runs:/", "models:/"))


def folder_of(reference: str, work_dir: Path) -> Path:
    """A local folder for a path, runs:/ or models:/ reference. Raises UserError where there is none."""
    if not is_of_run(reference):
        path = Path(os.path.expanduser(reference))
        if not reference or not os.path.isdir(path):
            raise UserError(
                f"{reference or 'an empty name'}: there is no such folder.\nGive a folder, runs:/RUN/output, or models:/NAME@ALIAS."
            )
        return path.resolve()
    try:
        return ledger_of(work_dir).download(reference)
    except Exception as error:
        raise UserError(f"{reference}: not found ({str(error).splitlines()[0]}).\nSee the runs with: moslim ui") from error
