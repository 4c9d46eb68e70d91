"""Bad input is met with file, row and remedy, in at most three lines; good input keeps what was labelled and nothing else."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import profile as profiles
from moslim_core.data import sources
from moslim_core.data.rows import Row, conversation, plain_text, prompt_key, read_json_lines, unit_hash
from moslim_core.data.settings import DataSettings
from moslim_core.errors import UserError
from moslim_core.preferences import PreferenceSchema

SCHEMA = PreferenceSchema.model_validate(
    [{"name": "warmth", "levels": ["cold", "neutral", "warm"]}, {"name": "harm", "levels": ["harmful", "harmless"], "floor": 2}]
)
GOOD = {"prompt": "Rain?", "response": "Yes.", "warmth": 3, "harm": None, "source": "made"}


def written(folder: Path, *values: Any, name: str = "rows.jsonl") -> Path:
    path = folder / name
    text = "".join((v if isinstance(v, str) else json.dumps(v)) + "\n" for v in values)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def read(path: Path | None, source: str = "jsonl", **columns: Any) -> list[tuple[str | None, Row]]:
    settings = DataSettings.model_validate({"source": source, "path": path, "columns": columns})
    return [(rated.stated, rated.row) for opened in sources.open_sources(settings, SCHEMA) for rated in opened.rows()]


def refused(run: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        run()
    message = str(caught.value)
    assert len(message.splitlines()) <= 3
    return message


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in GOOD.items() if k != key}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_rows_keep_their_labels_and_null_is_no_label(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, GOOD, "", {**GOOD, "warmth": None, "harm": 2.0, "source": None}, name=name)
    rain = [{"role": "user", "content": "Rain?"}]
    assert read(path) == [(None, Row(rain, "Yes.", {"warmth": 3}, "made")), (None, Row(rain, "Yes.", {"harm": 2}, "data"))]


def test_columns_and_ratings_are_mapped(tmp_path: Path) -> None:
    path = written(tmp_path, *({"q": "Rain?", "a": "Yes.", "w": w, "harm": None} for w in (0, 1, 2.0, "hot", None)))
    mapping = {"column": "w", "levels": {"0": 1, "1": None, "2": 2, "hot": 3}}
    found = read(path, prompt="q", response="a", labels={"warmth": mapping})
    assert [row.labels for _, row in found] == [{"warmth": 1}, {}, {"warmth": 2}, {"warmth": 3}, {}]


@pytest.mark.parametrize(
    ("bad", "problem", "remedy"),
    [
        (without("prompt"), "column 'prompt' is missing (there are: response, warmth, harm, source)", "data.columns"),
        (without("response"), "column 'response' is missing", "data.columns"),
        (without("harm"), "column 'harm' is missing", "data.columns"),
        ({**GOOD, "warmth": 4}, "warmth=4 is no level of warmth (1..3, or null)", "data.columns.labels.warmth.levels"),
        ({**GOOD, "warmth": 0}, "warmth=0 is no level", "mend the row"),
        ({**GOOD, "warmth": 3.5}, "warmth=3.5 is no level", "mend the row"),
        ({**GOOD, "warmth": "4 stars"}, "warmth=4 stars is no level", "mend the row"),
        ({**GOOD, "warmth": "4/5"}, "warmth=4/5 is no level", "mend the row"),
        ({**GOOD, "warmth": True}, "warmth=True is no level", "mend the row"),
        ({**GOOD, "warmth": [3, [3]]}, "warmth=[3] is no level", "mend the row"),
        ({**GOOD, "warmth": {"score": 3}}, "warmth={'score': 3} is no level", "mend the row"),
        ('{"prompt": "Rain?", "response": "Yes.", "warmth": Infinity, "harm": 1}', "warmth=inf is no level", "mend the row"),
        ({**GOOD, "response": None}, "column 'response' holds NoneType", "text is needed"),
        ({**GOOD, "prompt": 7}, "the prompt is neither text nor a list of messages", '"role": "user"'),
        ({**GOOD, "prompt": [{"role": "boss", "content": "Go."}]}, "neither text nor a list", '"role": "user"'),
        ({**GOOD, "prompt": " "}, "the prompt is empty or does not end with a user message", "drop the row"),
        ({**GOOD, "prompt": [{"role": "assistant", "content": "Hi"}]}, "does not end with a user message", "drop the row"),
        ("{not json", "not JSON", "one JSON object a line"),
        ("[1, 2]", "a JSON object is needed", "one JSON object a line"),
    ],
)
def test_bad_row_is_named_with_its_remedy(tmp_path: Path, bad: Any, problem: str, remedy: str) -> None:
    path = written(tmp_path, GOOD, bad, GOOD)
    message = refused(lambda: read(path))
    assert message.startswith(f"{path}, row 2: ")
    assert problem in message
    assert remedy in message


def test_rating_that_the_mapping_does_not_know_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    message = refused(lambda: read(path, labels={"warmth": {"levels": {"1": 1, "5": 2}}}))
    assert f"{path}, row 1: warmth=3 is not in the level mapping of warmth (1, 5)" in message
    assert "data.columns.labels.warmth.levels" in message
    message = refused(lambda: read(path, labels={"warmth": {"levels": {"3": 9}}}))
    assert "warmth=9 is no level of warmth (1..3, or null)" in message


def test_label_mapping_of_an_unknown_preference_is_refused(tmp_path: Path) -> None:
    message = refused(lambda: read(written(tmp_path, GOOD), labels={"wamth": {}}))
    assert "data.columns.labels names wamth" in message
    assert "The schema has: warmth, harm." in message


def _empty(folder: Path) -> Path:
    return written(folder, name="empty.jsonl")


def _latin(folder: Path) -> Path:
    (path := folder / "latin.jsonl").write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "caf\xe9"}\n')
    return path


def _truncated(folder: Path) -> Path:
    path = written(folder, *[GOOD] * 500, name="cut.jsonl.gz")
    path.write_bytes(path.read_bytes()[:-20])
    return path


def _damaged(folder: Path) -> Path:
    (path := folder / "plain.jsonl.gz").write_text(json.dumps(GOOD))
    return path


def _nothing(folder: Path) -> Path:
    return folder / "nothing.jsonl"


def _no_train(folder: Path) -> Path:
    return written(folder, GOOD, name="test.jsonl").parent


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (_empty, "the file has no rows.\nGive a file"),
        (_latin, "not UTF-8 text.\nSave the file as UTF-8"),
        (_truncated, "the gzip file is truncated or damaged.\nCopy or download it again."),
        (_damaged, "the gzip file is truncated or damaged.\nCopy or download it again."),
        (_nothing, "there is no such file or folder.\nGive a"),
        (_no_train, "the folder has no train.jsonl or train.jsonl.gz or train.json or train.json.gz.\nName"),
    ],
)
def test_bad_file_is_named_with_its_remedy(tmp_path: Path, make: Callable[[Path], Path], problem: str) -> None:
    path = make(tmp_path)
    message = refused(lambda: read(path))
    assert str(path) in message
    assert problem in message


def test_path_is_needed() -> None:
    assert "needs data.path" in refused(lambda: read(None))


def test_folder_states_the_splits(tmp_path: Path) -> None:
    written(tmp_path, GOOD, GOOD, name="train.jsonl.gz")
    written(tmp_path, GOOD, name="val.jsonl")
    written(tmp_path, GOOD, GOOD, GOOD, name="test-00000-of-00002.jsonl")
    written(tmp_path, GOOD, name="test-00001-of-00002.jsonl")
    written(tmp_path, GOOD, name="training_notes.jsonl")
    assert Counter(split for split, _ in read(tmp_path)) == {"train": 2, "validation": 1, "test": 4}


def test_lone_surrogates_do_not_stop_a_run(tmp_path: Path) -> None:
    # JSON can spell half a character; no UTF-8 file and no tokenizer can hold it.
    path = written(tmp_path, r'{"prompt": "Rain \ud83d?", "response": "\ud83d\ude00 \udc00", "warmth": 3, "harm": null}')
    [(_, row)] = read(path)
    assert (row.prompt[0]["content"], row.response) == ("Rain \ufffd?", "\U0001f600 \ufffd")


def test_csv_cells_become_ratings(tmp_path: Path) -> None:
    (path := tmp_path / "rows.csv").write_text('prompt,response,warmth,harm\n42,"Yes, yes.",3,\nRain?,No.,hot,2.0\n', encoding="utf-8-sig")
    columns = {"labels": {"warmth": {"levels": {"3": 3, "hot": 1}}}}
    assert [row for _, row in read(path, "csv", **columns)] == [
        Row([{"role": "user", "content": "42"}], "Yes, yes.", {"warmth": 3}, "data"),
        Row([{"role": "user", "content": "Rain?"}], "No.", {"warmth": 1, "harm": 2}, "data"),
    ]
    assert "warmth=hot is no level of warmth" in refused(lambda: read(path, "csv"))


def test_parquet_rows(tmp_path: Path) -> None:
    rows = [{**GOOD, "prompt": [{"role": "user", "content": "Rain?"}]}, {**GOOD, "prompt": [{"role": "user", "content": "Snow?"}]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-00000-of-00001.parquet")
    assert [(split, row.labels, row.source) for split, row in read(tmp_path, "parquet")] == [("train", {"warmth": 3}, "made")] * 2


def test_file_of_another_format_is_named(tmp_path: Path) -> None:
    assert "is a jsonl file.\nSet data.source=jsonl." in refused(lambda: read(written(tmp_path, GOOD), "parquet"))
    (csv := tmp_path / "rows.csv").write_text("prompt\n")
    assert "is a csv file.\nSet data.source=csv." in refused(lambda: read(csv))


def test_several_sources_stand_side_by_side_in_one_folder(tmp_path: Path) -> None:
    (tmp_path / "jsonl").mkdir()
    written(tmp_path / "jsonl", GOOD, name="train.jsonl")
    (tmp_path / "csv.csv").write_text("prompt,response,warmth,harm\nSnow?,No.,1,1\n")
    found = read(tmp_path, "jsonl, csv", labels={"csv.warmth": {"levels": {"1": 2}}})
    assert [(split, row.labels) for split, row in found] == [("train", {"warmth": 3}), (None, {"warmth": 2, "harm": 1})]
    assert "data.source=parquet needs a folder named parquet in data.path" in refused(lambda: read(tmp_path, "jsonl,parquet"))


@pytest.mark.parametrize("way", [{"thresholds": [1, 2]}, {"quantiles": True}])
@pytest.mark.parametrize("rating", ["three", True, "Infinity", [1, "Infinity"]])
def test_only_numbers_are_cut(tmp_path: Path, way: dict[str, Any], rating: Any) -> None:
    row = json.dumps({**GOOD, "warmth": rating}).replace('"Infinity"', "Infinity")
    message = refused(lambda: read(written(tmp_path, row), labels={"warmth": way}))
    assert "row 1: warmth=" in message and "is no number up to 1e+100, and thresholds cut warmth" in message


def test_number_of_thresholds_is_checked_before_reading(tmp_path: Path) -> None:
    message = refused(lambda: read(written(tmp_path, "{not json"), labels={"warmth": {"thresholds": [1]}}))
    assert "data.columns.labels.warmth.thresholds has 1 number, the 3 levels of warmth need 2" in message


def test_bad_prompt_files_are_named(tmp_path: Path) -> None:
    good = written(tmp_path, {"prompt": "Rain?", "split": "test"}, {"prompt": [{"role": "user", "content": "Snow?"}]})
    found = list(sources.prompts(good))
    assert [(split, messages[0]["content"]) for split, messages in found] == [("test", "Rain?"), (None, "Snow?")]
    empty, bad = written(tmp_path, name="empty.jsonl"), written(tmp_path, {"text": "Rain?"}, name="bad.jsonl")
    assert f"{empty}: the file has no rows" in refused(lambda: list(sources.prompts(empty)))
    assert f"{bad}, row 1: column 'prompt' is missing" in refused(lambda: list(sources.prompts(bad)))
    assert "there is no such file" in refused(lambda: list(sources.prompts(tmp_path / "none.jsonl")))
    (tmp_path / "folder").mkdir()
    assert "has no .jsonl" in refused(lambda: list(sources.prompts(tmp_path / "folder")))


def test_same_prompt_has_the_same_key() -> None:
    one = conversation("How do I  bake\nBread?", "here")
    assert prompt_key(one) == prompt_key(conversation(" how do i bake bread?", "here"))
    assert prompt_key(one) != prompt_key(conversation("How do I bake bread", "here"))
    two = [*one, {"role": "assistant", "content": "So."}, {"role": "user", "content": "And?"}]
    assert plain_text(one) == "How do I  bake\nBread?"
    assert plain_text(two) == "user: How do I  bake\nBread?\n\nassistant: So.\n\nuser: And?"


def test_hash_is_even_and_depends_on_nothing_else() -> None:
    # sha256("split/a"), first 8 bytes as a share of 2^64: the same on every machine, today and later.
    assert unit_hash("a", "split") == pytest.approx(0.0121066, abs=1e-7)
    places = [unit_hash(str(i), "split") for i in range(4000)]
    assert all(0.22 < sum(low <= p < low + 0.25 for p in places) / 4000 < 0.28 for low in (0, 0.25, 0.5, 0.75))


# --- the three-h profile on real data -------------------------------------------------------------------------------------

FOLDER = Path(os.environ.get("MOSLIM_DATA_DIR", "/nowhere")) / "unified_3h"


@pytest.mark.skipif(not FOLDER.is_dir(), reason="MOSLIM_DATA_DIR names no folder with unified_3h in it")
def test_three_h_profile_reads_the_real_data() -> None:
    settings = profiles.load("three-h", [f"data.path={FOLDER}"])
    opened = sources.open_sources(settings.data, settings.preferences)
    found = [(rated.stated, rated.row) for source in opened for rated in source.rows()]
    raw = [value for _, value in read_json_lines(FOLDER / "val.jsonl.gz")]
    # A 0-4 scale: 0 and 1 are level 1, 2 is level 2, 3 and 4 are level 3; for harmlessness 3 and 4 are 2, and 2 says neither.
    folded = {"helpfulness": (1, 1, 2, 3, 3), "honesty": (1, 1, 2, 3, 3), "harmlessness": (1, 1, None, 2, 2)}
    for name, levels in folded.items():
        expected = Counter(levels[v[name]] for v in raw if v[name] is not None and levels[v[name]] is not None)
        assert sum(expected.values()) > 50
        assert Counter(r.labels[name] for split, r in found if split == "validation" and name in r.labels) == expected
    keys = {split: {prompt_key(r.prompt) for s, r in found if s == split} for split in ("train", "validation", "test")}
    assert all(keys.values())
    assert not keys["train"] & keys["test"]
    assert not keys["train"] & keys["validation"]
    assert not keys["validation"] & keys["test"]
