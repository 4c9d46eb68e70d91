"""Each hub data set is read in its own layout: which rows, which ratings, which splits, and what is not read."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moslim_core.data.catalogue import HubSet
from moslim_core.data.rows import nearest
from moslim_core.data.settings import DataSettings
from moslim_core.data.sources import Rated, open_sources
from moslim_core.data.tables import FORMATS
from moslim_core.errors import UserError
from moslim_core.preferences import PreferenceSchema
from moslim_core.registry import source
from tests.core.data import hub

HUB_SETS = {name: source[name] for name in source.own if issubclass(source[name], HubSet)}
FIVE = ["worst", "bad", "middling", "good", "best"]


def schema(**levels: list[str]) -> PreferenceSchema:
    return PreferenceSchema.model_validate([{"name": name, "levels": of} for name, of in levels.items()])


def read(source: str, path: Path, preferences: PreferenceSchema, **labels: Any) -> list[Rated]:
    settings = DataSettings.model_validate({"source": source, "path": path, "columns": {"labels": labels}})
    return [rated for opened in open_sources(settings, preferences) for rated in opened.rows()]


def test_every_format_is_a_source() -> None:
    assert set(source.own) == {"starter", *FORMATS, *HUB_SETS}


def test_known_sets_tell_where_they_are_from() -> None:
    for name, known in HUB_SETS.items():
        assert known.hub.count("/") == 1 and known.licence and known.defects, name
        assert re.fullmatch(r"[0-9a-f]{40}|main", known.revision), name
    assert source["pku-saferlhf"].licence == "CC-BY-NC-4.0"


def test_ultrafeedback_has_a_row_per_completion_and_masks_not_applicable(tmp_path: Path) -> None:
    record = hub.ultra(
        "Why?",
        ("So.", {"honesty": hub.rated("N/A"), "helpfulness": hub.rated("4", Type=["1"]), "truthfulness": hub.rated("5")}),
        ("Thus.", {"honesty": hub.rated("1"), "helpfulness": {"Type": "None"}}),
        ("", {"honesty": hub.rated("2")}),
    )
    hub.written(tmp_path / "flan.jsonl", record, hub.ultra("Nothing?"))
    found = read("ultrafeedback", tmp_path, schema(honesty=FIVE, helpfulness=FIVE, warmth=FIVE))
    # The overall score of 10 is nowhere; warmth is rated by nobody.
    assert [r.row.labels for r in found] == [{"helpfulness": 4}, {"honesty": 1}, {"honesty": 2}]
    assert [(r.row.response, r.row.source, r.stated) for r in found][:2] == [
        ("So.", "ultrafeedback", None),
        ("Thus.", "ultrafeedback", None),
    ]
    assert found[0].row.prompt == [{"role": "user", "content": "Why?"}]


def test_ultrasafety_is_harmless_or_not(tmp_path: Path) -> None:
    hub.written(tmp_path / "UltraSafety.jsonl", hub.safety(7))
    found = read("ultrasafety", tmp_path, schema(harmlessness=["harmful", "harmless"]))
    assert [(r.row.response, r.row.labels["harmlessness"]) for r in found] == [("Sure 7.", 1), ("No 7.", 2)]
    assert {r.row.prompt[0]["content"] for r in found} == {"How to break window 7?"}


def test_helpsteer2_states_validation_and_its_conversations_are_taken_apart(tmp_path: Path) -> None:
    hub.written(tmp_path / "train.jsonl.gz", hub.steer(3), hub.steer(4))
    ending = {**hub.steer(5), "prompt": "Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nBye\n<extra_id_1>Assistant\n"}
    hub.written(tmp_path / "validation.jsonl.gz", ending)
    found = read("helpsteer2", tmp_path, schema(helpfulness=FIVE, verbosity=FIVE))
    assert [r.stated for r in found] == ["train", "train", "validation"]
    assert [r.row.labels for r in found] == [
        {"helpfulness": 4, "verbosity": 3},
        {"helpfulness": 5, "verbosity": 4},
        {"helpfulness": 1, "verbosity": 5},
    ]
    assert found[0].row.prompt == [{"role": "user", "content": "Explain 3."}]
    assert found[1].row.prompt == [
        {"role": "user", "content": "Explain 4."},
        {"role": "assistant", "content": "It follows 3."},
        {"role": "user", "content": "And then?"},
    ]
    assert [m["role"] for m in found[2].row.prompt] == ["user", "assistant", "user"]


def test_helpsteer3_has_choices_and_no_ties(tmp_path: Path) -> None:
    hub.written(tmp_path / "preference" / "train.jsonl.gz", hub.choice(1, -3), hub.choice(2, 0), hub.choice(3, 1))
    hub.written(tmp_path / "preference" / "validation.jsonl.gz", hub.choice(4, 2))
    found = read("helpsteer3", tmp_path, schema(helpfulness=["bad", "good"]))
    assert [(r.stated, r.row.response, r.row.worse) for r in found] == [
        ("train", "First 1.", {"helpfulness": "Second 1."}),
        ("train", "Second 3.", {"helpfulness": "First 3."}),
        ("validation", "Second 4.", {"helpfulness": "First 4."}),
    ]
    assert [turn["content"] for turn in found[0].row.prompt] == ["Hello 1.", "Hi.", "Bye?"]
    settings = DataSettings.model_validate({"source": "helpsteer3", "path": tmp_path, "columns": {"pairs": "quality"}})
    (opened,) = open_sources(settings, schema(quality=["bad", "good"]))
    assert next(iter(opened.rows())).row.worse == {"quality": "Second 1."}
    with pytest.raises(UserError, match=r"choices about helpfulness, which is no preference.*\n.*data\.columns\.pairs=quality"):
        read("helpsteer3", tmp_path, schema(quality=["bad", "good"]))


def test_saferlhf_rates_safety_or_severity_by_the_number_of_levels(tmp_path: Path) -> None:
    hub.written(tmp_path / "data" / "Alpaca-7B" / "train.jsonl", hub.pair(0), hub.pair(2))
    hub.written(tmp_path / "data" / "Alpaca3-8B" / "test.jsonl", hub.pair(1))
    two = read("pku-saferlhf", tmp_path, schema(harmlessness=["harmful", "harmless"]))
    four = read("pku-saferlhf", tmp_path, schema(harmlessness=["severe", "middling", "minor", "none"]))
    assert [(r.stated, r.row.labels["harmlessness"]) for r in two] == [("train", 2), ("train", 1)] * 2 + [("test", 2), ("test", 1)]
    assert [r.row.labels["harmlessness"] for r in four] == [4, 3, 4, 1, 4, 2]
    assert two[1].row.response == "Try 0!"


def test_other_numbers_of_levels_need_a_binning(tmp_path: Path) -> None:
    hub.make(tmp_path, 10)
    three = schema(helpfulness=["bad", "fair", "good"])
    with pytest.raises(UserError) as caught:
        read("ultrafeedback", tmp_path / "ultrafeedback", three)
    assert "ultrafeedback rates helpfulness by 5 values (1 to 5), but helpfulness has 3 levels" in str(caught.value)
    # One scale starts at 0, the other at 1: each has its own thresholds.
    labels = {"helpfulness": {"thresholds": [2, 3]}, "helpsteer2.helpfulness": {"thresholds": [1, 2]}}
    settings = DataSettings.model_validate({"source": "ultrafeedback,helpsteer2", "path": tmp_path, "columns": {"labels": labels}})
    counts: Counter[tuple[str, float]] = Counter()
    for opened in open_sources(settings, three):
        ratings = [rated.ratings["helpfulness"] for rated in opened.rows()]
        binning = opened.binnings["helpfulness"].measured(np.array(ratings))
        assert binning is not None
        counts.update((opened.name, nearest(binning.cut(rating))) for rating in ratings)
    assert counts == {("ultrafeedback", 1): 16, ("ultrafeedback", 2): 8, ("ultrafeedback", 3): 16} | {
        ("helpsteer2", 1): 24, ("helpsteer2", 2): 12, ("helpsteer2", 3): 24
    }  # fmt: skip


def test_preference_of_another_name_takes_a_rating_by_its_column(tmp_path: Path) -> None:
    hub.make(tmp_path, 10)
    found = read("helpsteer2", tmp_path / "helpsteer2", schema(length=FIVE), length={"column": "verbosity"})
    assert found[3].row.labels == {"length": 3}
    severe = schema(harmlessness=["harmful", "harmless"])
    cut = read(
        "pku-saferlhf",
        tmp_path / "pku-saferlhf",
        severe,
        harmlessness={"column": "severity", "levels": {"0": 2, "1": None, "2": 1, "3": 1}},
    )
    assert Counter(r.row.labels.get("harmlessness") for r in cut)[None] == 20
    with pytest.raises(UserError, match=r"column=wit: helpsteer2 has no such rating\.\nIt has: helpfulness, correctness"):
        read("helpsteer2", tmp_path / "helpsteer2", schema(length=FIVE), length={"column": "wit"})


@pytest.mark.parametrize(
    "record", [{"instruction": "Why?"}, {"instruction": "Why?", "completions": [{"response": "So."}]}, {"completions": 3}]
)
def test_file_of_another_form_is_refused(tmp_path: Path, record: dict[str, Any]) -> None:
    hub.written(tmp_path / "flan.jsonl", record)
    with pytest.raises(UserError, match=r"flan\.jsonl, row 1: no record of ultrafeedback .*\nGive the files of openbmb/UltraFeedback"):
        read("ultrafeedback", tmp_path, schema(honesty=FIVE))


def test_folder_without_its_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file of helpsteer2 is there\.\nGive a folder with train\.jsonl\.gz, validation"):
        read("helpsteer2", tmp_path, schema(helpfulness=FIVE))
