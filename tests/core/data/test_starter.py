"""The packaged rows are what today's rules say of them, and `build` can make such rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flows import profile as profiles
from moslim_core import models
from moslim_core.data import sources, starter
from moslim_core.data.annotators import annotate_all
from moslim_core.data.starter import drawing
from moslim_core.data.starter.demonstrations import Style
from moslim_core.data.starter.selection import select
from moslim_core.preferences import PreferenceSchema

SCHEMA = PreferenceSchema.model_validate(
    [{"name": "length", "levels": ["short", "long"], "annotator": {"measure": "word_count", "thresholds": [5]}}]
)


def test_packaged_labels_are_what_the_rules_say_today() -> None:
    settings = profiles.load("demo")
    schema = settings.preferences
    rows = [rated.row for source in sources.open_sources(settings.data, schema) for rated in source.rows()]
    assert all(row.labels == annotate_all(row.response, schema) for row in rows[::5])
    assert {row.source for row in rows} == {"starter"}
    # Enough of each level to learn from, and not all of one.
    for preference in schema.preferences:
        counts = Counter(row.labels[preference.name] for row in rows)
        assert set(counts) == set(range(1, preference.k + 1))
        assert 0.03 < min(counts.values()) / len(rows) < max(counts.values()) / len(rows) < 0.7


def test_packaged_rows_answer_the_packaged_prompts() -> None:
    prompts = starter.prompts()
    assert len(set(prompts)) == len(prompts)
    assert {row["prompt"] for row in starter.read(starter.ROWS)} == set(prompts)


def test_packaged_raw_answers_give_the_packaged_rows(tmp_path: Path) -> None:
    dropped: Counter[str] = Counter()
    count = starter.write(select(starter.read(starter.RAW), profiles.load("demo").preferences, dropped), tmp_path / "rows.jsonl.gz")
    assert (tmp_path / "rows.jsonl.gz").read_bytes() == starter.ROWS.read_bytes()
    assert count + dropped.total() == sum(1 for _ in starter.read(starter.RAW))
    assert sum(file.stat().st_size for file in starter.HERE.iterdir() if file.is_file()) < 3_000_000


def test_answers_can_be_drawn_and_are_the_same_twice(tiny_chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    styles = (Style("You are warm.", ("Fun!", "A friend!", "Love her!")), Style("You are cold.", ("Badly.", "A rock.", "Nothing."), 2))
    monkeypatch.setattr(drawing, "STYLES", styles)
    monkeypatch.setattr(drawing, "QUESTIONS", ("How?", "What?", "Why?"))
    model, tokenizer = models.load_chat_model(str(tiny_chat), tmp_path, "float32", "cpu")
    asked = starter.prompts()[:2]
    first, second = (list(drawing.draw(model, tokenizer, asked, 1, tmp_path / name)) for name in ("one", "two"))
    assert first == second
    assert len(first) == len(asked) * sum(style.draws for style in styles)
    assert {row["prompt"] for row in first} == set(asked)


def row(response: str, ended: bool = True, topic: float = 0.5, prompt: str = "Why?") -> dict[str, Any]:
    return {"prompt": prompt, "response": response, "ended": ended, "topic": topic}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (row("No end"), "breaks off"),
        (row("It never came to one", ended=False), "breaks off"),
        (row("It is far off.", topic=0.1), "off the topic"),
        (row("Say it. Say it again. Say it again. Say it again."), "loops"),
        (row("Very very very good."), "loops"),
        (row("Pleeeease, or tra-la-lalalalala."), "loops"),
        (row("- one\n- two."), "no plain sentence"),
        (row("..."), "no plain sentence"),
        (row("I am SmolLM."), "no plain sentence"),
        (row("Oh, put the egg in hot water and wait six minutes."), "copies a demonstration"),
        (row("What a shitty day."), "coarse"),
        (row("It is a big rock of ice."), "copies a demonstration"),
        (row("Yes, always."), "no plain sentence"),
        (row("The art of choosing a poem."), "no clause"),
    ],
)
def test_what_is_no_example_is_left_out_and_counted(given: dict[str, Any], reason: str) -> None:
    dropped: Counter[str] = Counter()
    assert list(select([given], SCHEMA, dropped)) == []
    assert dropped == Counter({reason: 1})


def test_a_cut_answer_keeps_its_whole_sentences() -> None:
    dropped: Counter[str] = Counter()
    raw = [row("One thing is sure. Another (so they say!) is that", ended=False), row("One thing is sure.")]
    assert [r["response"] for r in select(raw, SCHEMA, dropped)] == ["One thing is sure."]
    assert dropped == Counter({"said before": 1})


def test_answers_to_a_prompt_are_those_that_differ_most_in_level() -> None:
    """Ten are kept: of 30 short ones and 10 long ones, as many of each."""
    raw = [row(f"Of {word} two words.") for word in "abcdefghijklmnopqrstuvwxyzäöüß"]
    raw += [row(f"This is a long answer about {word}, which has more words.") for word in "abcdefghij"]
    found = list(select(raw, SCHEMA, Counter()))
    assert Counter(r["length"] for r in found) == {1: 5, 2: 5}
    assert found == list(select(raw, SCHEMA, Counter()))


def test_levels_that_seldom_meet_are_taken_where_they_do() -> None:
    """Long answers are loud and short ones are not, but for a few: of these as many are taken as of the others."""
    schema = PreferenceSchema.model_validate(
        [
            {"name": "length", "levels": ["short", "long"], "annotator": {"measure": "word_count", "thresholds": [5]}},
            {"name": "loudness", "levels": ["calm", "loud"], "annotator": {"measure": "exclamations", "thresholds": [0]}},
        ]
    )
    raw = [row(f"Of {word} two words{mark}") for word in "abcdefghij" for mark in (".!" if word < "d" else ".")]
    raw += [row(f"This is a long answer about {word} too{mark}") for word in "abcdefghij" for mark in (".!" if word < "d" else "!")]
    chosen = Counter((r["length"], r["loudness"]) for r in select(raw, schema, Counter()))
    assert sorted(chosen.values()) == [2, 2, 3, 3]


def test_words_of_a_short_demonstration_stand_in_long_answers_by_chance() -> None:
    said = "A big rock fell from the cliff, and nobody knows how old it is."
    assert [r["response"] for r in select([row(said)], SCHEMA, Counter())] == [said]
