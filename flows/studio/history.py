"""What was asked and answered, one exchange a line in the work directory: it outlives the page and the server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError

from flows.studio.found_levels import Found
from flows.studio.session import Drawn, System, Targets
from moslim_core.errors import UserError
from moslim_core.preferences import Message

# So many exchanges are listed, the newest.
LISTED = 50


class Given(BaseModel):
    """An answer. `ending`: why it is not whole ("" where it is)."""

    system: System
    targets: Targets
    text: str
    ending: str = ""
    found: list[Found] = []


class Exchange(BaseModel):
    """What one press of the button brought. `browser`: whose, as browsers do not see one another's."""

    when: str
    browser: str
    policy: str
    messages: list[Message]
    drawn: Drawn = Drawn()
    answers: list[Given]


class History:
    """A file that only grows. A line that a kill cut, or another hand spoiled, is passed over."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()

    def add(self, exchange: Exchange) -> None:
        """Append it. Raises UserError where the file can't be written."""
        # One write, so that two servers of one work directory mix no lines; a line that a kill cut is ended first.
        line = exchange.model_dump_json().encode() + b"\n"
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self._lock, self.file.open("ab+") as file:
                if file.tell() and (file.seek(-1, 2), file.read(1))[1] != b"\n":
                    line = b"\n" + line
                file.write(line)
        except OSError as error:
            raise UserError(f"{self.file} can't be written ({error.strerror or error}): what was asked is not kept.") from error

    def of(self, browser: str, most: int = LISTED) -> list[Exchange]:
        """A browser's exchanges, the newest first."""
        return [exchange for exchange in self._all() if exchange.browser == browser][: -most - 1 : -1]

    def others(self, browser: str, most: int = LISTED) -> list[Exchange]:
        """The exchanges of all other browsers, the newest first."""
        return [exchange for exchange in self._all() if exchange.browser != browser][: -most - 1 : -1]

    def _all(self) -> Iterator[Exchange]:
        if not self.file.is_file():
            return
        for line in self.file.read_bytes().splitlines():
            try:
                yield Exchange.model_validate_json(line)
            except ValidationError:
                continue
