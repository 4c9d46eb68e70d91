"""What a schema refuses, what may be requested, and how levels become scores."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from moslim_core.errors import UserError
from moslim_core.preferences import Preference, PreferenceSchema, Targets

SCHEMA = PreferenceSchema.model_validate(
    [
        {"name": "verbosity", "levels": ["terse", "short", "medium", "long", "very long"], "direction": "lower_is_better"},
        {"name": "warmth", "levels": ["cold", "neutral", "warm"]},
        {"name": "harmlessness", "levels": ["harmful", "harmless"], "floor": 2},
    ]
)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"levels": ["only"]}, "at least 2 are needed"),
        ({"floor": 4}, "floor 4 of 'x' is above its highest level 3"),
        ({"floor": 0}, "greater than or equal to 1"),
        ({"name": "Two Words"}, "must be a lower-case identifier"),
        ({"levels": ["a", "b; c (x 1/2)"]}, "letters, digits, spaces"),
        ({"levels": ["a", "b>"]}, "letters, digits, spaces"),
        ({"annotator": {"measure": "warmth", "thresholds": [0.1]}}, "needs 2 thresholds for 3 levels"),
        ({"annotator": {"measure": "warmth", "thresholds": [0.1, 0.1]}}, "rising"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_preference_that_makes_no_sense_is_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message.replace("(", r"\(")):
        Preference.model_validate({"name": "x", "levels": ["a", "b", "c"], **entry})


def test_names_of_a_schema_differ_and_there_is_one() -> None:
    twice = {"name": "x", "levels": ["a", "b"]}
    with pytest.raises(ValidationError, match="must differ"):
        PreferenceSchema.model_validate([twice, twice])
    with pytest.raises(ValidationError, match="at least one"):
        PreferenceSchema.model_validate([])


def test_schema_survives_json() -> None:
    assert PreferenceSchema.model_validate_json(SCHEMA.model_dump_json()) == SCHEMA


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"harmlessness": 1}, r"harmlessness=1 can't be requested: levels are 2\.\.2 \(harmless\)"),
        ({"warmth": 0}, r"levels are 1\.\.3"),
        ({"warmth": 4}, r"levels are 1\.\.3"),
        ({"warmth": 2.0}, r"warmth=2\.0 can't be requested"),
        ({"warmth": True}, "warmth=True can't be requested"),
        ({"zeal": 1}, "unknown preference 'zeal': the schema has verbosity, warmth, harmlessness"),
    ],
)
def test_request_that_is_not_allowed_is_refused(levels: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SCHEMA.targets(levels)


def test_command_line_form() -> None:
    assert SCHEMA.parse_targets(" warmth=3, verbosity = 1,") == SCHEMA.targets({"verbosity": 1, "warmth": 3})
    assert SCHEMA.parse_targets("") == Targets()
    assert SCHEMA.parse_targets("warmth=Open, verbosity=1") == SCHEMA.targets({"verbosity": 1})
    for preference in SCHEMA.preferences:
        for level in preference.requestable:
            words = preference.label(level)
            asked = SCHEMA.targets({preference.name: level})
            assert SCHEMA.parse_targets(f"{preference.name} = {words.upper()}") == SCHEMA.parse_targets(f" {words} ") == asked
    with pytest.raises(UserError, match="asked for twice"):
        SCHEMA.parse_targets(f"verbosity=1,{SCHEMA['verbosity'].label(2)}")
    same = PreferenceSchema.model_validate([{"name": name, "levels": ["low", "high"]} for name in ("a", "b")])
    with pytest.raises(UserError, match="a level of a and of b"):
        same.parse_targets("high")
    assert same.parse_targets("b=high") == same.targets({"b": 2})
    for text in ("warmth", "warmth=", "warmth=high", "warmth=-1", "warmth=9"):
        with pytest.raises(UserError):
            SCHEMA.parse_targets(text)


def test_targets_are_equal_whatever_their_order() -> None:
    one, other = Targets({"warmth": 3, "verbosity": 1}), Targets({"verbosity": 1, "warmth": 3})
    assert one == other
    assert len({one, other}) == 1
    assert list(SCHEMA.targets(one)) == ["verbosity", "warmth"]


def test_score_runs_from_0_to_1_and_turns_where_lower_is_better() -> None:
    # (level - 1) / (K - 1): level 2 of 3 is 1/2; level 2 of 5 is 1/4, turned 3/4.
    assert [SCHEMA["warmth"].score(v) for v in (1, 2, 3)] == [0.0, 0.5, 1.0]
    assert [SCHEMA["verbosity"].score(v) for v in (1, 2, 5)] == [1.0, 0.75, 0.0]


def test_guard_is_a_preference_with_one_level_to_request() -> None:
    assert [p.is_guard for p in SCHEMA.preferences] == [False, False, True]
