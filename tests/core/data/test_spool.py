"""Spooled rows come back as they were, each answer once, and a limit is a fair draw in any order of the files."""

from __future__ import annotations

import random
from pathlib import Path

from moslim_core.data.rows import Row
from moslim_core.data.sources import Rated
from moslim_core.data.spool import Spool, Spooled


def row(prompt: int, answer: int, stated: str | None = None, level: int = 1) -> Spooled:
    made = Row([{"role": "user", "content": f"Prompt\n{prompt} é"}], f"Answer\u2028{answer}", {"warmth": level}, "made")
    return Spooled(0, Rated(stated, made, {"length": 0.1}, f"rows, row {prompt}"))


ROWS = [row(n, m) for n in range(50) for m in range(4)]


def spooled(folder: Path, rows: list[Spooled], limit: int | None) -> tuple[list[Spooled], int]:
    spool = Spool(folder / "spool", rows)
    duplicates = spool.draw(limit)
    found = list(spool)
    assert len(found) == len(spool) and list(spool) == found
    return found, duplicates


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    assert spooled(tmp_path, ROWS, None) == (ROWS, 0)
    assert spooled(tmp_path, [], None) == ([], 0)


def test_limit_is_the_same_draw_in_any_order(tmp_path: Path) -> None:
    few, more = (spooled(tmp_path, ROWS, limit)[0] for limit in (60, 90))
    shuffled = random.Random(0).sample(ROWS, len(ROWS))
    again, _ = spooled(tmp_path, shuffled, 60)
    assert len(few) == 60
    assert sorted(map(repr, again)) == sorted(map(repr, few))
    assert all(r in more for r in few)


def test_one_of_equal_answers_is_kept_whatever_the_order(tmp_path: Path) -> None:
    # Case and white space of the prompt make no difference; a held-out row is kept before a training row.
    twins = [row(1, 1, level=1), row(1, 1, level=2), row(2, 1, "train"), row(2, 1, "test"), row(2, 1, "validation")]
    found, duplicates = spooled(tmp_path, twins, None)
    again, _ = spooled(tmp_path, twins[::-1], None)
    assert duplicates == 3 and sorted(map(repr, found)) == sorted(map(repr, again))
    assert [r.rated.stated for r in found if "2" in r.rated.row.prompt[0]["content"]] == ["test"]
    # Duplicates take no place in a limit.
    assert len(spooled(tmp_path, [*ROWS, *ROWS], 100)[0]) == 100
