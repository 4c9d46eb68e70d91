"""First steps with files that are no rated rows, or odd ones: a profile is written, or refused with nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows import profile
from flows.cli import init_profile
from moslim_core.data.sources import open_sources
from tests.odd.case import Case

ROWS = "".join(f"What is {p}?,It is {a} of {p}.,{1 + (p + a) % 3}\n" for p in range(12) for a in range(3))


def init(text: str | bytes, name: str = "own.csv", output: str = "mine.yaml") -> Callable[[Path], Any]:
    def act(folder: Path) -> Any:
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        (folder / "output").mkdir()
        try:
            init_profile.write(folder / name, folder / "output" / output)
        finally:
            if not any((folder / "output").iterdir()):
                (folder / "output").rmdir()
        return profile.load(str(folder / "output" / output))

    return act


def rated_in_records(folder: Path) -> None:
    """What `init` writes for ratings inside records is what the rows are read by."""
    rows = [{"prompt": f"What is {p}?", "response": f"It is {a} of {p}.", "ratings": {"tone": {"warmth": 1 + (p + a) % 3}}}
            for p in range(12) for a in range(3)]  # fmt: skip
    settings = init("\n".join(map(json.dumps, rows)), "own.jsonl")(folder)
    assert settings.preferences.names == ("warmth",)
    read = [rated.row for source in open_sources(settings.data, settings.preferences) for rated in source.rows()]
    assert [row.labels for row in read] == [{"warmth": row["ratings"]["tone"]["warmth"]} for row in rows]


CASES = [
    Case("init: ratings inside records", rated_in_records),
    Case(
        "init: a CSV with a byte order mark and semicolons",
        init(b"\xef\xbb\xbf" + ("prompt,response,warmth\n" + ROWS).replace(",", ";").encode()),
    ),
    Case("init: column names with colons, quotes and braces", init("prompt,response,\"a: {b} 'c' # d\"\n" + ROWS)),
    Case("init: a column that is a number", init("prompt,response,3\n" + ROWS)),
    Case(
        "init: two columns that make one name",
        init("prompt,response,Warm!,warm?\n" + "".join(f"{line},{1 + n % 3}\n" for n, line in enumerate(ROWS.splitlines()))),
    ),
    Case("init: an empty file", init(""), "no rows"),
    Case("init: a header alone", init("prompt,response,warmth\n"), "no rows"),
    Case("init: one column", init("prompt\nWhat is it?\n"), "no column of answers"),
    Case("init: bytes that are no text", init(b"\xff\xfe\x00\x01" * 9), "UTF-8"),
    Case("init: an open quote", init('prompt,response,warmth\n"What,It is,1\n'), "never closed"),
    Case("init: a name that is no profile's", init("prompt,response,warmth\n" + ROWS, output="mine.txt"), ".yaml"),
    Case("init: no such file", lambda folder: init_profile.write(folder / "none.csv", folder / "mine.yaml"), "no such file"),
    Case("init: numbers alone", init("a,b\n1,2\n3,4\n"), "no column of prompts"),
]
