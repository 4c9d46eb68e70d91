"""Rules measure what they say, and thresholds cut it into levels."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from moslim_core import registry
from moslim_core.data.annotators import annotate, annotate_all, annotators_of
from moslim_core.errors import UserError
from moslim_core.preferences import PreferenceSchema, RuleAnnotator
from moslim_core.preferences.measures import readability, warmth, word_count


def test_measures() -> None:
    assert word_count("  One two\n three ") == 3
    assert word_count("") == readability("") == readability(" ") == 0
    simple, hard = "The cat sat on the mat. It is a good cat.", "Epistemological considerations necessitate interdisciplinarity."
    assert readability(simple) < 4 < 12 < readability(hard)
    assert warmth("I hate this horrible, awful day.") < -0.6 < 0.6 < warmth("What a wonderful, lovely day! I love it!")
    assert warmth("The table has four legs.") == 0


@pytest.mark.parametrize(
    ("measure", "text", "value"),
    [
        ("sentence_count", "It rains here. Does it snow there? No, it does not!", 3),
        ("word_length", "A cat sat.", 7 / 3),
        # In VADER's lexicon `good` has a valence of 1.9, and an exclamation mark adds 0.292.
        ("cheerfulness", "good and the rest of it is as it", 1.9 / 3),
        ("cheerfulness", "Good!", 1.9 + 0.292 + 1),
        ("cheerfulness", "The table has four legs!", 1),
        ("cheerfulness", "The table has four legs.", 0),
        ("cheerfulness", "", 0),
        ("questions", "Why?! Who??? Because.", 2),
        ("exclamations", "Yes!!! No! Oh.", 2),
        ("emojis", "Fun 🙂🙂 ❤️ 1 © #", 3),
        ("first_person", "I like my cat, and mine likes it", 37.5),
        ("hedging", "Perhaps it might rain", 50),
        ("contractions", "I don't know, it's Anna's cat", 100 / 3),
        ("list_items", "Things:\n- one\n 2. two\n* three\n3 four - five", 3),
        ("list_items", "", 0),
        ("hedging", "", 0),
        ("word_length", " ", 0),
    ],
)
def test_other_measures(measure: str, text: str, value: float) -> None:
    assert registry.measure[measure](text) == pytest.approx(value, abs=0.01)


def test_a_pattern_of_ones_own_is_counted() -> None:
    rule = RuleAnnotator(measure="pattern", pattern=r"(?i)\bbanana", thresholds=(0, 1))
    assert [annotate(text, rule) for text in ("An apple.", "Banana.", "banana BANANA")] == [1, 2, 3]
    with pytest.raises(UserError, match="Write it without nested repetitions"):
        annotate("a" * 60 + "!", RuleAnnotator(measure="pattern", pattern=r"(a|aa)+$", thresholds=(0,)))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"measure": "pattern"}, "go together"),
        ({"measure": "warmth", "pattern": "a"}, "go together"),
        ({"measure": "pattern", "pattern": "("}, "is no regular expression"),
        ({"measure": "words"}, "Input should be 'pattern', 'word_count', "),
    ],
)
def test_a_rule_that_can_measure_nothing_is_refused(values: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RuleAnnotator.model_validate({**values, "thresholds": [1]})


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
