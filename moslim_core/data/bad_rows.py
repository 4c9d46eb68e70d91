"""Rows that can't be used: each stops the run, or is left out and counted, as `data.bad_rows` says. (ours)"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from moslim_core.errors import UserError

# So many places are named of each kind.
NAMED = 3


class BadRow(UserError):
    """One row that can't be used, though those after it can. `reason` is its kind, `place` names file and row."""

    def __init__(self, place: str, reason: str, problem: str, remedy: str) -> None:
        super().__init__(f"{place}: {problem}.\n{remedy}")
        self.place, self.reason = place, reason


OnBad = Callable[[BadRow], None]


def stop(error: BadRow) -> None:
    """What is done about a bad row unless somebody says otherwise."""
    raise error


def skip(error: BadRow) -> None:
    """For a second pass over rows whose bad ones the first pass counted."""


class BadRows:
    """What a run does about its bad rows: raises UserError at the first (`stop`), or counts them by reason (`drop`)."""

    def __init__(self, how: Literal["stop", "drop"]) -> None:
        self.how = how
        self.first: BadRow | None = None
        self.counts: dict[str, int] = {}
        self._places: dict[str, list[str]] = {}

    def __call__(self, error: BadRow) -> None:
        if self.how == "stop":
            raise UserError(f"{error}\nOr leave such rows out, counted in the data card: --set data.bad_rows=drop")
        self.first = self.first or error
        self.counts[error.reason] = self.counts.get(error.reason, 0) + 1
        places = self._places.setdefault(error.reason, [])
        if len(places) < NAMED:
            # A card may be published: of a path it tells the file's name alone.
            places.append(Path(error.place).name)

    def record(self) -> list[dict[str, Any]]:
        """For the data card: {reason, rows, first}, `first` naming the first few places."""
        return [{"reason": reason, "rows": n, "first": "; ".join(self._places[reason])} for reason, n in self.counts.items()]


def shown(value: Any, most: int = 60) -> str:
    """A value of a file for an error's text: on one line, and no longer than can be read."""
    text = value if isinstance(value, str) else repr(value)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= most else text[: most - 3] + "..."
