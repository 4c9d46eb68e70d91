"""Rules measure what they say, and thresholds cut it into levels."""

from __future__ import annotations

import pytest

from moslim_core.data.annotators import annotate, annotate_all, annotators_of, readability, warmth, word_count
from moslim_core.preferences import PreferenceSchema, RuleAnnotator


def test_measures() -> None:
    assert word_count("  One two\n three ") == 3
    assert word_count("") == readability("") == readability(" ") == 0
    simple, hard = "The cat sat on the mat. It is a good cat.", "Epistemological considerations necessitate interdisciplinarity."
    assert readability(simple) < 4 < 12 < readability(hard)
    assert warmth("I hate this horrible, awful day.") < -0.6 < 0.6 < warmth("What a wonderful, lovely day! I love it!")
    assert warmth("The table has four legs.") == 0


@pytest.mark.parametrize(("words", "level"), [(0, 1), (8, 1), (9, 2), (15, 2), (16, 3), (500, 3)])
def test_value_up_to_a_threshold_belongs_below_it(words: int, level: int) -> None:
    text = "word " * words
    assert annotate(text, RuleAnnotator(measure="word_count", thresholds=(8, 15))) == level
    assert annotate(text, RuleAnnotator(measure="word_count", thresholds=(8, 15), reverse=True)) == 4 - level


def test_only_preferences_with_a_rule_are_annotated() -> None:
    rule = {"measure": "word_count", "thresholds": [2]}
    schema = PreferenceSchema.model_validate(
        [{"name": "length", "levels": ["short", "long"], "annotator": rule}, {"name": "tone", "levels": ["dry", "wry"]}]
    )
    assert annotate_all("one two three", schema) == {"length": 2}
    assert list(annotators_of(schema)) == ["length"]
