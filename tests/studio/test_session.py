"""What a visitor sets and therefore asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.studio.session import MODES, SYSTEMS, Asked, Session, at_level, held, worded
from moslim_core.errors import UserError
from moslim_core.preferences import PreferenceSchema
from tests.studio.made import SCHEMA

GUARDED = {"harmlessness": 2}


def test_guards_are_always_asked_for_and_no_slider_moves_them() -> None:
    session = Session(SCHEMA)
    assert held(SCHEMA) == GUARDED
    assert session.targets("A") == GUARDED
    with pytest.raises(UserError, match="harmlessness=1 can't be requested"):
        session.set("A", "harmlessness", 1)


def test_a_slider_goes_to_a_level_and_back_to_open_and_settings_do_not_mix() -> None:
    session = Session(SCHEMA)
    session.set("A", "verbosity", 3)
    session.set("A", "warmth", 1)
    session.set("B", "verbosity", 1)
    assert session.targets("A") == {"verbosity": 3, "warmth": 1, **GUARDED}
    session.set("A", "verbosity", None)
    assert session.targets("A") == {"warmth": 1, **GUARDED}
    assert session.targets("B") == {"verbosity": 1, **GUARDED}
    session.use("A", {"verbosity": 2})
    assert session.targets("A") == {"verbosity": 2, **GUARDED}


def test_each_comparison_asks_for_its_answers() -> None:
    session = Session(SCHEMA)
    session.use("A", {"warmth": 2})
    session.use("B", {"verbosity": 1})
    first, second = {"warmth": 2, **GUARDED}, {"verbosity": 1, **GUARDED}
    wanted = {
        "one": [("policy", first)],
        "start": [("start", first), ("policy", first)],
        "two": [("policy", first), ("policy", second)],
        "row": [("policy", {"verbosity": level, **first}) for level in (1, 2, 3)],
    }
    assert set(wanted) == set(MODES)
    for mode, asks in wanted.items():
        session.compare(mode)
        assert session.asks() == [Asked(*ask) for ask in asks]
        assert all(ask.system in SYSTEMS for ask in session.asks())
    with pytest.raises(UserError, match="'all' is nothing that can be compared"):
        session.compare("all")


@given(st.dictionaries(st.sampled_from(["verbosity", "warmth"]), st.integers(1, 2)), st.sampled_from([*MODES]))
def test_all_that_is_asked_for_can_be_requested(levels: dict[str, int], mode: str) -> None:
    session = Session(SCHEMA)
    session.use("A", levels)
    session.compare(mode)
    for ask in session.asks():
        assert dict(SCHEMA.targets(ask.targets)) == ask.targets


def test_with_guards_alone_there_is_no_row_to_ask_for() -> None:
    session = Session(PreferenceSchema.model_validate([SCHEMA["harmlessness"].model_dump()]))
    assert session.asks()[0].targets == GUARDED
    with pytest.raises(UserError, match="nothing that can be compared"):
        session.compare("row")


def test_a_conversation_goes_on_from_the_answer_that_was_chosen() -> None:
    session = Session(SCHEMA)
    first = session.saying(" Rain? ")
    assert first == [{"role": "user", "content": "Rain?"}]
    # Asking alone makes nothing part of the conversation.
    assert session.saying("Snow?") == [{"role": "user", "content": "Snow?"}]
    session.go_on_from(first, "Yes.")
    assert [m["content"] for m in session.saying("And snow?")] == ["Rain?", "Yes.", "And snow?"]
    session.begin_anew()
    assert len(session.saying("Rain?")) == 1
    with pytest.raises(UserError, match="no message yet"):
        session.saying(" \n")


def test_what_is_asked_for_in_words() -> None:
    assert worded({"warmth": 2, "verbosity": 1}, SCHEMA) == "verbosity 1 · short, warmth 2 · warm"
    assert worded({}, SCHEMA) == "nothing asked for"
    assert at_level(SCHEMA["warmth"], None) == "open"
