"""Ratings given in the studio, as rated rows of the form that `data.source=jsonl` reads: the next training can have them.

One folder for each set of preferences and numbers of levels, as a file's rows all have the same columns.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from moslim_core.data.rows import read_json_lines
from moslim_core.errors import UserError
from moslim_core.preferences import Message, PreferenceSchema

SOURCE = "studio"
FILE = "jsonl.jsonl"
COLUMNS = ("prompt", "response", "source")
LONGEST_NAME = 120


class Ratings:
    """The rated rows of one schema below the studio's folder of a work directory."""

    def __init__(self, home: Path, schema: PreferenceSchema) -> None:
        self.schema = schema
        self.folder = home / "ratings" / _name(schema)
        self.file = self.folder / FILE

    def add(self, messages: Sequence[Message], answer: str, levels: Mapping[str, int | None]) -> int:
        """Append an answer with its levels (None: not rated); returns how many rows there are.

        An answer that was rated before is rated anew: its earlier row goes. Raises UserError where nothing is rated, or not within 1..K.
        """
        row = self._row(messages, answer, levels)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.file}.lock"):
                return self._replace(row)
        except OSError as error:
            raise UserError(f"{self.file} can't be written ({error.strerror or error}).\nMake room, or give the folder back.") from error

    def _replace(self, row: dict[str, Any]) -> int:
        others = [old for old in self.rows() if (old.get("prompt"), old.get("response")) != (row["prompt"], row["response"])]
        partial = self.file.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as file:
            for each in (*others, row):
                file.write(json.dumps(each, ensure_ascii=False) + "\n")
        os.replace(partial, self.file)
        return len(others) + 1

    def __len__(self) -> int:
        return len(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """All rated rows; a line that a kill cut is left out."""
        return [row for _, row in read_json_lines(self.file, bad=lambda error: None)] if self.file.is_file() else []

    def _row(self, messages: Sequence[Message], answer: str, levels: Mapping[str, int | None]) -> dict[str, Any]:
        if taken := [name for name in self.schema.names if name in COLUMNS]:
            raise UserError(f"The preference {taken[0]!r} is called as a column of rated rows.\nGive it another name to rate answers here.")
        if not answer.strip():
            raise UserError("An empty answer can't be rated: no training would take the row.")
        for name, level in levels.items():
            if level is not None and not (isinstance(level, int) and 1 <= level <= self.schema[name].k):
                raise UserError(f"{name}={level!r} is no level: there are 1..{self.schema[name].k}.")
        rated = {name: levels.get(name) for name in self.schema.names}
        if all(level is None for level in rated.values()):
            raise UserError("Nothing is rated yet: choose a level of one preference at least.")
        one = len(messages) == 1 and messages[0]["role"] == "user"
        return {"prompt": messages[0]["content"] if one else list(messages), "response": answer, "source": SOURCE, **rated}


def _name(schema: PreferenceSchema) -> str:
    """'verbosity5-warmth3': what a row's columns are and which levels they hold."""
    name = "-".join(f"{p.name}{p.k}" for p in schema.preferences)
    return name if len(name) <= LONGEST_NAME else hashlib.sha256(name.encode()).hexdigest()[:16]
