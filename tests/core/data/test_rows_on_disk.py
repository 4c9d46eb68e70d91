"""Spooled rows come back as they were, each answer once, and a limit is a fair draw in any order of the files."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from moslim_core.data.rows import Row
from moslim_core.data.rows_on_disk import DUPLICATE, MERGED, Spool, Spooled
from moslim_core.data.sources import Rated


def row(prompt: int, answer: int, stated: str | None = None, level: int = 1) -> Spooled:
    made = Row([{"role": "user", "content": f"Prompt\n{prompt} é"}], f"Answer\u2028{answer}", {"warmth": level}, "made")
    return Spooled(0, Rated(stated, made, {"length": 0.1}))


ROWS = [row(n, m) for n in range(50) for m in range(4)]


def spooled(folder: Path, rows: list[Spooled], limit: int | None) -> tuple[list[Spooled], dict[str, int]]:
    spool = Spool(folder / "spool", rows, ("warmth", "length"))
    others = spool.draw(limit)
    found = list(spool)
    assert len(found) == len(spool) and list(spool) == found
    return found, others


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    assert spooled(tmp_path, ROWS, None) == (ROWS, Counter())
    assert spooled(tmp_path, [], None) == ([], Counter())


def test_limit_is_the_same_draw_in_any_order(tmp_path: Path) -> None:
    few, more = (spooled(tmp_path, ROWS, limit)[0] for limit in (60, 90))
    shuffled = random.Random(0).sample(ROWS, len(ROWS))
    again, _ = spooled(tmp_path, shuffled, 60)
    assert len(few) == 60
    assert sorted(map(repr, again)) == sorted(map(repr, few))
    assert all(r in more for r in few)


def test_one_of_equal_answers_is_kept_whatever_the_order(tmp_path: Path) -> None:
    # Case and white space of the prompt make no difference; a held-out row is kept before a training row.
    twins = [row(1, 1, level=1), row(1, 1, level=1), row(2, 1, "train"), row(2, 1, "test"), row(2, 1, "validation")]
    found, others = spooled(tmp_path, twins, None)
    again, _ = spooled(tmp_path, twins[::-1], None)
    assert others == {DUPLICATE: 3} and sorted(map(repr, found)) == sorted(map(repr, again))
    assert [r.rated.stated for r in found if "2" in r.rated.row.prompt[0]["content"]] == ["test"]
    # Duplicates take no place in a limit.
    assert len(spooled(tmp_path, [*ROWS, *ROWS], 100)[0]) == 100


def test_several_ratings_of_an_answer_are_merged_by_label_whatever_the_order(tmp_path: Path) -> None:
    """Levels of all, ratings of the source whose row is kept; a rating has no say where another source knows the level."""
    says = [Row([{"role": "user", "content": "Rain?"}], "Yes.", {}, "made").with_levels(of) for of in ({"warmth": 3}, {"warmth": 2.5}, {})]
    rows = [Spooled(0, Rated("test", says[0], {"length": 1.0})), Spooled(1, Rated(None, says[1], {})), Spooled(0, Rated(None, says[2], {}))]
    rows.append(Spooled(0, Rated(None, says[2], {"length": 2.0})))
    other = Spooled(1, Rated(None, says[2], {"length": 90.0}))
    for order in ([*rows, other], [other, *rows[::-1]]):
        [(source, rated)], others = spooled(tmp_path, order, None)
        assert (source, rated.stated, others) == (0, "test", {MERGED: 4})
        assert (rated.row.labels, rated.row.between, rated.ratings) == ({"warmth": 3}, {"warmth": 2.75}, {"length": 1.5})
    known = Spooled(1, Rated(None, says[2].with_levels({"length": 2}), {}))
    [(_, rated)], _ = spooled(tmp_path, [rows[0], known], None)
    assert (rated.row.labels, rated.ratings) == ({"warmth": 3, "length": 2}, {})
    # Whichever is kept, and though it has the mean itself.
    three = [row(n, 1, level=level) for n in range(30) for level in (1, 2, 3)]
    found, others = spooled(tmp_path, three, None)
    assert {r.rated.row.labels["warmth"] for r in found} == {2} and others == {MERGED: 60}


def test_a_choice_is_no_rating_of_its_answer(tmp_path: Path) -> None:
    chosen = row(1, 1).rated
    choice = Spooled(0, Rated(None, chosen.row._replace(labels={}, worse={"warmth": "No."}), {}))
    found, others = spooled(tmp_path, [row(1, 1), choice, choice], None)
    assert found == [row(1, 1), choice] and others == {DUPLICATE: 1}
