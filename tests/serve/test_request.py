"""What can be asked is read; everything else is refused with a reason, and nothing else happens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.serve.errors import ApiError
from flows.serve.request import Asked, Offer, read
from tests.serve.running import SCHEMA

OFFER = Offer("moslim", SCHEMA, 16, 400)
HELLO = [{"role": "user", "content": "Hello"}]


def asked(**more: Any) -> Asked:
    return read(json.dumps({"model": "moslim", "messages": HELLO, **more}).encode(), OFFER)


@pytest.mark.parametrize(
    ("more", "targets"),
    [
        ({}, {}),
        ({"preferences": {"warmth": 3}}, {"warmth": 3}),
        ({"preferences": {"length": "long", "warmth": " Very  WARM "}}, {"warmth": 3, "length": 2}),
        ({"preferences": {"length": "2", "warmth": None}}, {"length": 2}),
        ({"preferences": None}, {}),
        ({"model": "moslim:warmth=1"}, {"warmth": 1}),
        ({"model": "moslim:warmth=very warm, length=2"}, {"warmth": 3, "length": 2}),
        ({"model": "moslim:warmth=1", "preferences": {"length": 1, "warmth": 1}}, {"warmth": 1, "length": 1}),
        ({"model": "moslim:"}, {}),
    ],
)
def test_targets_by_number_or_word_in_the_body_or_the_name(more: dict[str, Any], targets: dict[str, int]) -> None:
    assert dict(asked(**more).targets) == targets


def test_what_asks_for_nothing_special_is_taken() -> None:
    plain = {
        "n": 1,
        "top_p": 1.0,
        "stop": None,
        "frequency_penalty": 0,
        "logprobs": False,
        "tools": [],
        "user": "me",
        "metadata": {"a": "b"},
    }
    found = asked(**plain, response_format={"type": "text"}, max_tokens=7, seed=-5, temperature=0, stream=None)
    assert (found.max_tokens, found.seed, found.temperature, found.stream) == (7, -5, 0, False)
    assert asked(max_completion_tokens=9).max_tokens == 9
    assert asked().max_tokens == 16
    assert asked().seed != asked().seed


def test_text_in_parts_and_a_developer_are_understood() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    found = asked(messages=[{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts, "name": "me"}])
    assert found.messages == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "one\ntwo"}]


IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
REFUSED: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({"preferences": {"wit": 1}}, 400, "unknown preference 'wit': there are warmth, length", "preferences"),
    ({"model": "moslim:wit=1"}, 400, "unknown preference", "model"),
    ({"preferences": {"warmth": 4}}, 400, "warmth=4 can't be requested: levels are 1 (cold), 2 (neutral), 3 (very warm)", "preferences"),
    ({"preferences": {"warmth": True}}, 400, "warmth=True can't", "preferences"),
    ({"preferences": {"warmth": 3.0}}, 400, "warmth=3.0 can't", "preferences"),
    ({"preferences": {"warmth": "hot"}}, 400, "warmth='hot' can't", "preferences"),
    ({"preferences": {"warmth": "\u00b2"}}, 400, "can't be requested", "preferences"),
    ({"preferences": ["warmth"]}, 400, "preferences=", "preferences"),
    ({"model": "moslim:warmth=9"}, 400, "warmth=9 can't", "model"),
    ({"model": "moslim:warmth"}, 404, "write moslim:NAME=LEVEL", "model"),
    ({"model": "moslim:warmth=1,warmth=2"}, 400, "asked for twice", "model"),
    (
        {"model": "moslim:warmth=1", "preferences": {"warmth": 2}},
        400,
        "warmth is 1 in the model's name and 2 in preferences",
        "preferences",
    ),
    ({"model": "gpt-4o"}, 404, "there is no model 'gpt-4o': this is 'moslim'", "model"),
    ({"model": 1}, 400, "model=1", "model"),
    ({"messages": []}, 400, "messages is empty", "messages"),
    ({"messages": "Hello"}, 400, "messages=", "messages"),
    ({"messages": ["Hello"]}, 400, "messages[0] is no object", "messages[0]"),
    ({"messages": [{"role": "boss", "content": "Hi"}]}, 400, "messages[0] has the role 'boss'", "messages[0].role"),
    (
        {"model": "moslim:warmth=1", "preferences": {"warmth": None}},
        400,
        "warmth is 1 in the model's name and open in preferences",
        "preferences",
    ),
    ({"messages": [{"content": "Hi"}]}, 400, "messages[0] has no role", "messages[0].role"),
    ({"messages": [{"role": "user"}]}, 400, "messages[0] has no content", "messages[0].content"),
    ({"messages": [*HELLO, {"role": "assistant", "content": None}]}, 400, "messages[1].content=None is no text", "messages[1].content"),
    (
        {"messages": [*HELLO, {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}]},
        400,
        "messages[1] calls tools, which the policy does not",
        "messages[1].tool_calls",
    ),
    ({"preference": {}}, 400, "unknown parameter 'preference': did you mean 'preferences'?", "preference"),
    ({"stream_options": {"include_usage": "yes"}}, 400, "stream_options.include_usage='yes'", "stream_options.include_usage"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, 400, "one thing under two names", "max_tokens"),
    ({"stream_options": 3}, 400, "stream_options=3: Input should be a valid dictionary", "stream_options"),
    ({"messages": IMAGE}, 400, "a part that is no text ('image_url')", "messages[0].content"),
    ({"n": 2}, 400, "n=2 is not supported: leave it out, or give 1", "n"),
    ({"n": True}, 400, "n=True is not supported", "n"),
    ({"top_p": 0.9}, 400, "top_p=0.9 is not supported", "top_p"),
    ({"stop": ["."]}, 400, "stop=['.'] is not supported", "stop"),
    ({"tools": [{"type": "function"}]}, 400, "tools=", "tools"),
    ({"response_format": {"type": "json_object"}}, 400, "response_format=", "response_format"),
    ({"preference": {"warmth": 1}}, 400, "unknown parameter 'preference'", "preference"),
    ({"chat_template": "x"}, 400, "unknown parameter", "chat_template"),
    ({"temperature": -1}, 400, "temperature=-1", "temperature"),
    ({"temperature": 1e-9}, 400, "temperature=1e-09 is none", "temperature"),
    ({"temperature": "warm"}, 400, "temperature='warm'", "temperature"),
    ({"temperature": float("nan")}, 400, "temperature=nan", "temperature"),
    ({"max_tokens": 0}, 400, "max_tokens=0", "max_tokens"),
    ({"max_tokens": 401}, 400, "max_tokens=401 is more than 400", "max_tokens"),
    ({"max_completion_tokens": 10**30}, 400, "is more than 400", "max_tokens"),
    ({"seed": 2**64}, 400, "seed=", "seed"),
    ({"stream": "yes"}, 400, "stream='yes'", "stream"),
]


@pytest.mark.parametrize(("more", "status", "words", "param"), REFUSED)
def test_what_cannot_be_asked_is_refused(more: dict[str, Any], status: int, words: str, param: str | None) -> None:
    with pytest.raises(ApiError) as refusal:
        asked(**more)
    error = refusal.value.body["error"]
    assert (refusal.value.status, error["param"], error["type"]) == (status, param, "invalid_request_error")
    assert words in error["message"]


def test_what_is_missing_is_named() -> None:
    for name in ("model", "messages"):
        with pytest.raises(ApiError, match=f"{name} is missing"):
            read(json.dumps(_without(name)).encode(), OFFER)


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in {"model": "moslim", "messages": HELLO}.items() if key != name}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"null", b'"x"', b"[" * 100_000, b'{"model": NaN}'])
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as refusal:
        read(body, OFFER)
    assert refusal.value.status == 400


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "warmth"]), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = [
    "model",
    "messages",
    "preferences",
    "temperature",
    "max_tokens",
    "n",
    "stop",
    "stream",
    "stream_options",
    "seed",
    "response_format",
]


@given(more=st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=3))
def test_whatever_is_sent_is_read_or_refused(more: dict[str, Any]) -> None:
    try:
        found = asked(**more)
    except ApiError as refusal:
        assert refusal.status in (400, 404)
        assert refusal.response.body
    else:
        assert 0 <= found.temperature <= 2 and 1 <= found.max_tokens <= 400
