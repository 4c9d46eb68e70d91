"""The exported template writes what the renderer writes, byte for byte."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from moslim_core.export.chat_template import own_template, with_preferences
from moslim_core.preferences import PreferenceSchema, Targets, chat_text, condition
from tests.core.preferences.schemas import schema_and_targets
from tests.core.preferences.test_forgeries import CJK, CODE, GREEK, RUSSIAN
from tests.core.preferences.tokenizers_made import KINDS

SCHEMA = PreferenceSchema.model_validate(
    [{"name": "warmth", "levels": ["cold", "neutral", "warm"]}, {"name": "safety", "levels": ["none", "it's all"], "floor": 2}]
)
PLACEMENTS: tuple[Any, ...] = ("system", "user_prefix", "user_suffix")
# What imitations, and texts that are none, are made of.
PIECES = (
    *("<", "</", ">", "[", "]", "<preferences>", "</preferences>", "<Preferences>", "List", "pre", "ferences", "preferences", " ", "\n"),
    *("\u200b", "\u0301", "\u0440", "\uff1c", "\u226e", "\u33da", "\u1d29", "x", "<b>", "[b]", "\u00e9", "\u203f", "_", "\ufb00"),
    *("\u3164", "\U000f0000"),
)
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=12).map("".join)


def written(tokenizer: Any, messages: Any, schema: PreferenceSchema, placement: Any, **asked: Any) -> str:
    template = with_preferences(tokenizer.chat_template, schema, placement)
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, chat_template=template, **asked))


def require_same(tokenizer: Any, messages: Any, targets: Targets, schema: PreferenceSchema, placement: Any) -> None:
    expected = chat_text(tokenizer, condition(messages, targets, schema, placement))
    assert written(tokenizer, messages, schema, placement, preferences=dict(targets)) == expected


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, str]]:
    roles = ["system"] * draw(st.booleans()) + ["user", "assistant"] * draw(st.integers(0, 2)) + ["user"]
    return [{"role": role, "content": draw(TEXTS)} for role in roles]


@settings(max_examples=40)
@given(schema_and_targets(), conversations(), st.sampled_from(PLACEMENTS), st.sampled_from(["byte_level", "thinking", "sentence_piece"]))
def test_any_request_in_any_conversation(asked: tuple[PreferenceSchema, Targets], messages: Any, placement: Any, kind: str) -> None:
    schema, targets = asked
    require_same(KINDS[kind](), messages, targets, schema, placement)


@settings(max_examples=100)
@given(TEXTS)
@example("<pr<b>efer</b>ences>")
@example("<[<preferences>]>")
@example("a < b and c[0] > d</preferences")
@example("<" * 40 + "preferences" + ">" * 41)
@example("<\u33daeferences>")
def test_any_text(text: str) -> None:
    require_same(KINDS["byte_level"](), [{"role": "user", "content": text}], Targets({"warmth": 2}), SCHEMA, "user_suffix")


@pytest.mark.parametrize("texts", [RUSSIAN, GREEK, CJK, CODE], ids=["russian", "greek", "cjk", "code"])
def test_what_nobody_meant_as_an_instruction(texts: tuple[str, ...]) -> None:
    require_same(KINDS["byte_level"](), [{"role": "user", "content": "\n".join(texts)}], Targets({"warmth": 1}), SCHEMA, "user_prefix")


def test_nothing_asked_writes_the_model_s_own_text() -> None:
    tokenizer, messages = KINDS["thinking"](), [{"role": "user", "content": "Rain?"}]
    for asked in ({}, {"preferences": None}, {"preferences": {}}):
        assert written(tokenizer, messages, SCHEMA, "system", **asked) == chat_text(tokenizer, messages)
    assert own_template(with_preferences(tokenizer.chat_template, SCHEMA, "system")) == tokenizer.chat_template


@pytest.mark.parametrize(
    ("preferences", "said"),
    [
        ({"warmth": 4}, "warmth=4"), ({"warmth": True}, "warmth=True"), ({"warmth": "3"}, "warmth=3"), ({"warmth": 2.0}, "warmth=2.0"),
        ({"safety": 1}, "levels are 2"), ({"wit": 1}, "unknown preference wit: there are warmth, safety"), ([3], "name: level"),
    ],
)  # fmt: skip
def test_what_can_not_be_requested_is_refused(preferences: Any, said: str) -> None:
    with pytest.raises(Exception, match=said):
        written(KINDS["byte_level"](), [{"role": "user", "content": "Rain?"}], SCHEMA, "user_suffix", preferences=preferences)


def test_messages_without_text_or_a_question_are_refused() -> None:
    asked = {"preferences": {"warmth": 1}}
    for messages in (
        [{"role": "judge", "content": "Rain?"}],
        [{"role": "user", "content": None}],
        [{"role": "system", "content": "Rain"}],
    ):
        with pytest.raises(Exception, match="message"):
            written(KINDS["byte_level"](), messages, SCHEMA, "user_suffix", **asked)
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    with pytest.raises(Exception, match="tool_calls"):
        written(KINDS["byte_level"](), [{"role": "user", "content": "Rain?"}, call], SCHEMA, "user_suffix")


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_parts_of_text_say_what_one_text_says(placement: Any) -> None:
    tokenizer = KINDS["byte_level"]()
    own = (
        "{% for m in messages %}{{ m['role'] }}:{% if m['content'] is string %}{{ m['content'] }}{% else %}"
        "{% for part in m['content'] %}{{ part['text'] if part['type'] == 'text' else '(image)' }}{% endfor %}{% endif %};{% endfor %}"
    )
    template = with_preferences(own, SCHEMA, placement)

    def text(content: Any) -> str:
        messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": content}]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, chat_template=template, preferences={"warmth": 3}))

    assert text([{"type": "text", "text": "<preferences>Rain?"}]) == text("<preferences>Rain?")
    pictured = text([{"type": "text", "text": "Rain?"}, {"type": "image"}])
    assert "(image)" in pictured and "warm (warmth 3/3)" in pictured


def test_an_answer_that_is_trained_on_or_gone_on_with_may_follow() -> None:
    tokenizer = KINDS["byte_level"]()
    messages = [{"role": "user", "content": "Rain?"}, {"role": "assistant", "content": "It"}]
    asked = condition(messages[:1], Targets({"warmth": 3}), SCHEMA, "user_suffix")
    template = with_preferences(tokenizer.chat_template, SCHEMA, "user_suffix")
    found = tokenizer.apply_chat_template(messages, tokenize=False, chat_template=template, preferences={"warmth": 3})
    assert found == chat_text(tokenizer, [*asked, messages[1]], answered=True)
