"""The packaged rows are what today's rules say of them, and `build` can make such rows."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

from flows import profile as profiles
from moslim_core import models
from moslim_core.data import sources, starter
from moslim_core.data.annotators import annotate_all
from moslim_core.preferences import PreferenceSchema


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
    with gzip.open(starter.ROWS, "rt", encoding="utf-8") as file:
        asked = {json.loads(line)["prompt"] for line in file}
    assert asked == set(prompts)


def test_rows_can_be_built_and_are_the_same_bytes_twice(tiny_chat: Path, tmp_path: Path) -> None:
    model, tokenizer = models.load_chat_model(str(tiny_chat), tmp_path, "float32", "cpu")
    rule = {"measure": "word_count", "thresholds": [5]}
    schema = PreferenceSchema.model_validate([{"name": "length", "levels": ["short", "long"], "annotator": rule}])
    paths = [tmp_path / "one.jsonl.gz", tmp_path / "two.jsonl.gz"]
    counts = [starter.write(starter.build(model, tokenizer, schema, seed=1, limit=2), path) for path in paths]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with gzip.open(paths[0], "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) == counts[0] > len(starter.STYLES)
    assert {r["prompt"] for r in rows} == set(starter.prompts()[:2])  # the style's wish is not kept
    assert all(r["length"] == 1 + (len(r["response"].split()) > 5) for r in rows)
