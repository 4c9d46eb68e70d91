"""The data card counts what went by and tells it three times: as JSON, as Markdown, as a page of its own."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from moslim_core.data.card import Share, Tally, html, markdown, shown, write_card
from moslim_core.data.rows import Row
from moslim_core.preferences import PreferenceSchema

SCHEMA = PreferenceSchema.model_validate(
    [{"name": "warmth", "levels": ["cold", "neutral", "warm"]}, {"name": "harm", "levels": ["harmful", "harmless"]}]
)
EVIL = "<script>alert(1)</script> | \n a"


def made(source: str = "made", **changes: Any) -> dict[str, Any]:
    tally = Tally(SCHEMA)
    for number in range(100):
        prompt = [{"role": "user", "content": "word " * (number + 1)}]
        labels = {"warmth": 1 + number % 3} if number < 60 else {"warmth": 3, "harm": 2}
        split = "test" if number % 10 == 0 else "train"
        tally.add(split, Row(prompt, "word " * (2 * number + 2), labels, source if number < 80 else "other"))
    more: dict[str, Any] = {
        "prompts": {"training": 90, "evaluation": 8},
        "prompt_groups": {"similarity": 0.8, "distinct": 100, "groups": 97, "nearly the same as another": 5, "largest group": 3},
        "licences": {"ultrafeedback": {"licence": "MIT", "hub": "openbmb/UltraFeedback", "revision": "40b4", "defects": "A 10 was a 1."}},
        "binning": {
            "warmth": {"jsonl": {"column": "w", "levels": {"0": 1, "1": None}}, "csv": {"column": "w"}},
            "harm": {"jsonl": {"column": "h", "quantiles": True, "thresholds": [0.25, 4], "means": [0.1, None, 7]}},
        },
        "dropped": {"duplicate": 3, "no label": 0},
        "bad_rows": [{"reason": "not JSON", "rows": 2, "first": "rows.jsonl, row 4; rows.jsonl, row 7"}],
    }
    return tally.card(**(more | changes))


def test_counts_add_up() -> None:
    card = made()
    assert card["rows"] == {"train": 90, "test": 10} and list(card["rows"]) == ["train", "test"]
    assert card["sources"] == {"made": 80, "other": 20}
    assert card["rows_by_source"] == {"made": {"train": 72, "test": 8}, "other": {"train": 18, "test": 2}}
    assert card["labels"]["warmth"] == {"labelled": 100, "levels": {"1": 20, "2": 20, "3": 60}}
    assert card["labels"]["harm"] == {"labelled": 40, "levels": {"1": 0, "2": 40}}
    assert card["labels_by_source"]["harm"] == {
        "made": {"labelled": 20, "levels": {"1": 0, "2": 20}},
        "other": {"labelled": 20, "levels": {"1": 0, "2": 20}},
    }
    assert card["dropped"] == {"duplicate": 3}
    assert card["prompt_words"] == {"5": 5, "25": 25, "50": 50, "75": 75, "95": 95}
    assert card["answer_words"]["50"] == 100
    assert card["agreement"] == card["filled"] == []


def test_labelled_rows_are_counted_by_split() -> None:
    tally = Tally(SCHEMA)
    tally.add("train", Row([{"role": "user", "content": "Rain?"}], "Yes.", {"warmth": 1}, "made"))
    assert (tally.labelled("warmth"), tally.labelled("warmth", "train"), tally.labelled("warmth", "test"), tally.labelled("harm")) == (
        1,
        1,
        0,
        0,
    )


def test_levels_between_two_and_choices_are_told_beside_the_labels() -> None:
    tally = Tally(SCHEMA)
    row = Row([{"role": "user", "content": "Rain?"}], "Yes.", {}, "made")
    tally.add("train", row.with_levels({"warmth": 1.5}))
    tally.add("train", row._replace(worse={"harm": "No."}))
    card = tally.card(**{key: made()[key] for key in ("prompts", "prompt_groups", "licences", "binning")}, dropped={})
    assert card["labels"]["warmth"]["levels"] == {"1": 0, "2": 1, "3": 0}
    assert (card["between"], card["choices"]) == ({"warmth": 1}, {"harm": {"train": 1}})
    text = markdown(card, SCHEMA)
    assert "1 lie between two levels, and count as the nearer one here." in text
    assert "Choices between two answers: train 1." in text


def test_percentiles_do_not_depend_on_the_order() -> None:
    rng = random.Random(0)
    cards = []
    lengths = [rng.randint(1, 40) for _ in range(300)]
    for _ in range(2):
        rng.shuffle(lengths)
        tally = Tally(SCHEMA)
        for n in lengths:
            tally.add("train", Row([{"role": "user", "content": "Rain?"}], "word " * n, {"warmth": 1}, "made"))
        cards.append(tally.card(dropped={}))
    assert cards[0] == cards[1]
    assert cards[0]["answer_words"]["50"] == sorted(lengths)[149]


def test_the_same_rows_give_the_same_few_examples_in_any_order() -> None:
    rows = [Row([{"role": "user", "content": f"Rain {n}?"}], f"Yes, {n}. ", {"warmth": 1 + n % 3}, "made") for n in range(40)]
    shown_of = []
    for order in (rows, rows[::-1], [*rows, *rows[:20]]):
        tally = Tally(SCHEMA)
        for row in order:
            tally.add("train", row)
        shown_of.append(tally.examples())
    assert shown_of[0] == shown_of[1] == shown_of[2]
    assert len({example["question"] for example in shown_of[0]}) == 5
    other = Tally(SCHEMA)
    for row in rows:
        other.add("train", row._replace(response="No."))
    assert {example["question"] for example in other.examples()} != {example["question"] for example in shown_of[0]}


def test_examples_are_cut_and_have_words_for_levels() -> None:
    tally = Tally(SCHEMA)
    row = Row([{"role": "user", "content": "a" * 301}], "b" * 300, {}, "made", worse={"harm": "the worse answer"})
    tally.add("train", row.with_levels({"warmth": 1.5}))
    (example,) = tally.examples()
    assert (example["question"], example["answer"]) == ("a" * 300 + "…", "b" * 300)
    assert example["levels"] == {"warmth": "1.5, near neutral", "harm": "chosen over another answer"}


def test_markdown_and_page_tell_what_is_in_the_card() -> None:
    both = {"preference": "warmth", "first": "rules", "second": "judge", "n": 40}
    card = made(
        agreement=[{**both, "exact": 0.875, "kappa": 0.8125}, {**both, "second": "given", "exact": 1.0, "kappa": None}],
        filled=[{"preference": "harm", "annotator": "judge", "asked": 31, "filled": 29, "undecided": 2, "unparsable": 0}],
    )
    for text in (markdown(card, SCHEMA), re.sub(r"\s+", " ", html(card, SCHEMA))):
        for said in (
            "MIT", "openbmb/UltraFeedback, 40b4", "A 10 was a 1.", "1 · cold", "Labels: harm", "duplicate", "0.8125", "n/a", "given",
            "table: 0 → 1, 1 → masked", "rows.jsonl, row 4; rows.jsonl, row 7", "mean ratings of the levels: 0.1, none, 7",
            "level 1 up to 0.25, then 4 (quantiles of the training ratings);", "they are levels",
        ):  # fmt: skip
            assert said in text, said
        assert "no label" not in text
    assert "| harm | judge | 31 | 29 | 2 | 0 |" in markdown(card, SCHEMA)
    assert "| all | 100 (100 %) | 20 (20 %) | 20 (20 %) | 60 (60 %) |" in markdown(card, SCHEMA)
    assert "Agreement" not in markdown(made(), SCHEMA)


def test_page_is_self_contained_and_escapes_what_it_shows() -> None:
    evil = {"question": f"question {EVIL}", "answer": f"answer {EVIL}", "levels": {f"level {EVIL}": f"word {EVIL}"}}
    card = made(source=EVIL, dropped={EVIL: 1}, examples=[evil])
    page = html(card, SCHEMA)
    assert all(f"{what} &lt;script&gt;alert(1)" in page for what in ("question", "answer", "level", "word"))
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"(?:src|href)=", page) and "url(" not in page
    assert page.count("<section>") == page.count("</section>") == 10
    lines = markdown(card, SCHEMA).splitlines()
    tables = [line.replace(r"\|", "").count("|") for line in lines if line.startswith("|")]
    assert r"\|" in "".join(lines) and min(tables) >= 3
    assert "question" not in markdown(card, SCHEMA), "what goes out with a policy has nobody's text"


def test_cells() -> None:
    assert [shown(c) for c in (12345, 0.5, 1234.0, "a", Share(1, 3), Share(0, 0))] == ["12,345", "0.5", "1,234", "a", "1 (33 %)", "0 (0 %)"]


@pytest.mark.parametrize("name", ["data_card.json", "data_card.md", "data_card.html"])
def test_all_three_are_written(tmp_path: Path, name: str) -> None:
    card = made()
    write_card(tmp_path, card, SCHEMA)
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert json.loads(text) == card if name.endswith("json") else "Data card" in text
