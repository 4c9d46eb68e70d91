"""History and ratings: what the work directory keeps."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from flows.studio.found_levels import Found
from flows.studio.history import Exchange, Given, History
from flows.studio.ratings import FILE, Ratings
from flows.studio.session import Drawn
from moslim_core.data.prepare import prepare
from moslim_core.data.rows import load_rows, read_json_lines
from moslim_core.errors import UserError
from moslim_core.preferences import PreferenceSchema
from moslim_core.settings import Settings
from moslim_core.training.progress import Progress
from tests.studio.made import SCHEMA

MESSAGES = [{"role": "user", "content": "Rain?"}]


def exchange(browser: str, text: str) -> Exchange:
    found = [Found(preference="warmth", asked=1, probabilities=[0.5, 0.5], expected=1.5)]
    given = Given(system="policy", targets={"warmth": 1}, text=text, ending="cut at the limit of 4 tokens", found=found)
    return Exchange(when="2026-01-02", browser=browser, policy="p", messages=MESSAGES, drawn=Drawn(0.0, 4, 7), answers=[given])


def test_history_outlives_the_server_newest_first_and_each_browser_has_its_own(tmp_path: Path) -> None:
    file = tmp_path / "studio" / "history.jsonl"
    for number in range(4):
        History(file).add(exchange("ab"[number % 2], f"{number}\n\u2028é"))
    again = History(file)
    assert again.of("a") == [exchange("a", f"{number}\n\u2028é") for number in (2, 0)]
    assert [e.answers[0].text[0] for e in again.others("a")] == ["3", "1"]
    assert [e.answers[0].text[0] for e in again.of("a", most=1)] == ["2"]
    assert History(tmp_path / "none").of("a") == []


def test_a_damaged_line_of_history_costs_that_line(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.add(exchange("a", "1"))
    with history.file.open("ab") as file:
        file.write(b'{"when": "2026\n\xff\n{"cut by a kill')
    history.add(exchange("a", "2"))
    assert [e.answers[0].text for e in history.of("a")] == ["2", "1"]


def test_visitors_at_once_lose_and_mix_no_line(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    adding = [threading.Thread(target=lambda n=n: [history.add(exchange(f"b{n}", "x" * 5000)) for _ in range(10)]) for n in range(4)]
    for thread in adding:
        thread.start()
    for thread in adding:
        thread.join()
    assert [len(history.of(f"b{n}")) for n in range(4)] == [10] * 4


def test_ratings_are_rows_that_the_label_stage_takes(tmp_path: Path, tiny_chat: Path) -> None:
    ratings = Ratings(tmp_path, SCHEMA)
    turns = [{"role": "user", "content": "Snow?"}, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And rain?"}]
    for number in range(40):
        levels = {"verbosity": number % 3 + 1, "warmth": number % 2 + 1, "harmlessness": 2 - (number % 5 == 0)}
        ratings.add([{"role": "user", "content": f"What of number {number} of all?"}], f"Answer {number}.", levels)
    assert ratings.add(turns, "No.", {"warmth": 2, "verbosity": None}) == len(ratings) == 41
    settings = Settings.model_validate(
        {
            "work_dir": tmp_path / "work",
            "data": {"source": ["jsonl"], "path": ratings.file, "validation_fraction": 0.3, "test_fraction": 0.3},
            "model": {"base": str(tiny_chat)},
            "policy": {"max_prompt_tokens": 300, "max_new_tokens": 8},
            "preferences": SCHEMA.model_dump(mode="json"),
            "evaluation": {"judge": "reward_model"},
        }
    )
    card = prepare(settings, tmp_path / "rows", tmp_path / "cache", Progress(None))
    assert sum(card["rows"].values()) == 41 and card["dropped"] == {}
    rows = [row for file in (tmp_path / "rows").glob("*.jsonl") if not file.name.startswith("prompts") for row in load_rows(file)]
    (talk,) = [row for row in rows if len(row.prompt) > 1]
    assert (talk.prompt, talk.response, talk.labels, talk.source) == (turns, "No.", {"warmth": 2}, "studio")


def test_an_answer_that_is_rated_again_has_its_last_rating(tmp_path: Path) -> None:
    ratings = Ratings(tmp_path, SCHEMA)
    assert [ratings.add(MESSAGES, answer, {"warmth": level}) for answer, level in (("Yes.", 1), ("No.", 1), ("Yes.", 2))] == [1, 2, 2]
    rows = [row for _, row in read_json_lines(ratings.file)]
    assert [(row["response"], row["warmth"], row["verbosity"]) for row in rows] == [("No.", 1, None), ("Yes.", 2, None)]


def test_what_is_no_rating_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    ratings = Ratings(tmp_path, SCHEMA)
    for answer, levels, words in (
        ("Yes.", {}, "Nothing is rated"),
        (" ", {"warmth": 1}, "empty answer"),
        ("Yes.", {"warmth": 3}, "no level"),
    ):
        with pytest.raises(UserError, match=words):
            ratings.add(MESSAGES, answer, levels)
    assert not ratings.folder.exists()
    named = Ratings(tmp_path, PreferenceSchema.model_validate([{"name": "source", "levels": ["a", "b"]}]))
    with pytest.raises(UserError, match="called as a column"):
        named.add(MESSAGES, "Yes.", {"source": 1})


def test_other_levels_have_another_file(tmp_path: Path) -> None:
    other = PreferenceSchema.model_validate(
        [{**p.model_dump(), "annotator": None, "levels": ["a", "b", "c", "d"]} for p in SCHEMA.preferences]
    )
    files = {Ratings(tmp_path / "a b", schema).file for schema in (SCHEMA, other)}
    assert {file.parent.name for file in files} == {"verbosity3-warmth2-harmlessness2", "verbosity4-warmth4-harmlessness4"}
    many = PreferenceSchema.model_validate([{"name": f"a_long_name_{n}", "levels": ["a", "b"]} for n in range(30)])
    assert len(Ratings(tmp_path, many).folder.name) < 255
    ratings = Ratings(tmp_path / "a b", SCHEMA)
    ratings.add(MESSAGES, "Yes.", {"warmth": 1})
    from moslim_core.data.files import place_of

    assert place_of("jsonl", ratings.folder, several=True) == ratings.file and ratings.file.name == FILE
    assert json.loads(ratings.file.read_text())["prompt"] == "Rain?"
