"""What the studio is started with, and what it finds in its folder."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from flows.studio import server
from flows.studio.history import Exchange, Given, History
from flows.studio.loaded_models import newest
from flows.studio.ratings import Ratings
from flows.studio.session import Session
from moslim_core.preferences import PreferenceSchema
from tasks.surroundings import work_dirs
from tests.odd.case import Case

SCHEMA = PreferenceSchema.model_validate([{"name": "warmth", "levels": ["cold", "warm"]}])
RAIN = [{"role": "user", "content": "Rain?"}]


def without_nicegui(folder: Path) -> None:
    with patch.object(server, "find_spec", return_value=None):
        server.require_nicegui()


def serving(host: str, port: int) -> Callable[[Path], object]:
    return lambda folder: server.serve(folder / "output", None, host, port, None)


def port_is_taken(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server.serve(folder / "output", None, "127.0.0.1", taken.getsockname()[1], None)


def damaged_ratings(folder: Path) -> None:
    ratings = Ratings(folder, SCHEMA)
    ratings.add(RAIN, "Yes.", {"warmth": 1})
    with ratings.file.open("ab") as file:
        file.write(b'{"prompt": "cut by a k')
    assert ratings.add(RAIN, "No.", {"warmth": 2}) == 2
    assert [json.loads(line)["warmth"] for line in ratings.file.read_text().splitlines()] == [1, 2]


def ratings_are_a_file(folder: Path) -> None:
    (folder / "ratings").write_text("")
    Ratings(folder, SCHEMA).add(RAIN, "Yes.", {"warmth": 1})


def history_can_not_be_written(folder: Path) -> None:
    (folder / "history.jsonl").mkdir()
    given = Given(system="policy", targets={}, text="Yes.")
    History(folder / "history.jsonl").add(Exchange(when="now", browser="b", policy="p", messages=RAIN, answers=[given]))


def half_a_character(folder: Path) -> None:
    """As a browser may send it."""
    ratings = Ratings(folder, SCHEMA)
    message = Session(SCHEMA).saying("Rain \ud83d?")
    ratings.add(message, "Yes.", {"warmth": 1})
    history = History(folder / "history.jsonl")
    given = Given(system="policy", targets={}, text="Yes.")
    history.add(Exchange(when="now", browser="b", policy="p", messages=message, answers=[given]))
    assert history.of("b")[0].messages[0]["content"] == "Rain \ufffd?"


def empty_key(folder: Path) -> None:
    key = folder / "cookies.key"
    key.write_text("\n")
    made = server._secret(key)
    assert len(made) > 20 and server._secret(key) == made and key.stat().st_mode & 0o777 == 0o600


CASES: list[Case] = [
    Case("studio without NiceGUI", without_nicegui, "pip install 'moslim[studio]'"),
    Case("studio at an address of another machine", serving("192.0.2.1", 0), "nothing can listen there"),
    Case("studio at no address", serving("no such host", 0), "nothing can listen there"),
    Case("studio at a port that is taken", port_is_taken, "Give another --port"),
    Case("studio without a policy", lambda folder: newest([]), "no trained policy"),
    Case("studio's ratings cut by a kill", damaged_ratings),
    Case("studio's ratings where a file is", ratings_are_a_file, "can't be written"),
    Case("studio's history where a folder is", history_can_not_be_written, "what was asked is not kept"),
    Case("studio told half a character", half_a_character),
    Case("studio's key empty", empty_key),
    Case("studio's folder is a file", lambda folder: ((folder / "studio").write_text(""), work_dirs.made(folder)), "keep a folder there"),
]
