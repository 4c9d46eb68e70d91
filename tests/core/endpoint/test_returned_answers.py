"""Many questions to a server that misbehaves: answers in their places, nothing paid twice, the key nowhere."""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from moslim_core.judging.endpoint import Endpoint, Question, Usage, _retry_after, parse
from moslim_core.judging.settings import JudgeSettings
from tests.core.chat_server import Reply, Request, error, in_turn, says, serving
from tests.core.endpoint.asking import FINE, KEY, SCHEMA, questions, refused


def by_number(request: Request) -> Reply:
    """Level 1..5 by the question's number, the later ones faster."""
    number = int(request.asked.split()[-1])
    return says({"level": 1 + number % 5}, seconds=0.04 - 0.001 * number)


def test_answers_come_in_order_under_bounded_concurrency_and_cost_adds_up(endpoint: Callable[..., Endpoint]) -> None:
    with serving(by_number) as server:
        asking = endpoint(server, concurrency=4, input_price=2.0, output_price=10.0)
        answers = asking.ask(questions(24))
        assert answers == [{"level": 1 + n % 5} for n in range(24)]
        assert server.most == 4
        assert sorted(server.asked()) == sorted(q.messages[0]["content"] for q in questions(24))
        # 100 and 10 tokens an answer.
        once = Usage(calls=24, input_tokens=2400, output_tokens=240, cost=0.0072)
        assert asking.usage == once
        assert asking.ask([*questions(24), *questions(3)]) == answers + answers[:3]
        assert asking.usage == once.model_copy(update={"cached": 27})
        assert len(server.requests) == 24


def test_request_is_what_the_settings_say(endpoint: Callable[..., Endpoint]) -> None:
    with serving(in_turn(FINE)) as server:
        endpoint(server).ask(questions(1))
        endpoint(server, max_tokens=None, temperature=None, model="other").ask(questions(1))
        first, second = (r.body for r in server.requests)
    messages = [{"role": "user", "content": "question 0"}]
    assert first["response_format"] == {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    assert {k: v for k, v in first.items() if k != "response_format"} == {
        "model": "judge",
        "messages": messages,
        "max_tokens": 512,
        "temperature": 0,
    }
    assert {k: v for k, v in second.items() if k != "response_format"} == {"model": "other", "messages": messages}


@pytest.mark.parametrize(
    "bad",
    [
        error(429),
        error(500),
        error(503),
        error(408),
        Reply(None),
        FINE._replace(seconds=0.8),
        Reply("<html>Sign in</html>", headers={"Content-Type": "text/html"}),
        Reply("{broken"),
        Reply("\x00\xff" * 10),
        Reply({}),
        Reply({"error": {"message": "upstream"}}),
        Reply({"choices": []}),
    ],
    ids=["429", "500", "503", "408", "dropped", "slow", "page", "no-json", "binary", "empty", "error-in-200", "no-choices"],
)
def test_what_may_pass_is_asked_again(endpoint: Callable[..., Endpoint], bad: Reply) -> None:
    state = random.getstate()
    with serving(in_turn(bad, bad, FINE)) as server:
        asking = endpoint(server, timeout_seconds=0.4)
        assert asking.ask(questions(1)) == [{"level": 3}]
        assert asking.usage == Usage(calls=1, input_tokens=100, output_tokens=10)
        assert len(server.requests) == 3
    assert random.getstate() == state


def test_server_says_how_long_to_wait(endpoint: Callable[..., Endpoint]) -> None:
    with serving(in_turn(error(429, headers={"Retry-After": "0.5"}), error(503, headers={"Retry-After": "0.3"}), FINE)) as server:
        assert endpoint(server).ask(questions(1)) == [{"level": 3}]
        one, two, three = (r.time for r in server.requests)
    assert 0.5 <= two - one < 0.8
    assert 0.3 <= three - two < 0.6


def test_wait_is_a_number_or_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 55 < _retry_after({"retry-after": soon}) <= 60
    past = "Wed, 21 Oct 2015 07:28:00 GMT"
    assert [_retry_after({"retry-after": v}) for v in ("7", "-7", "soon", "nan", past)] == [7, 0, 0, 0, 0]
    assert _retry_after({}) == 0


def test_pauses_double(endpoint: Callable[..., Endpoint]) -> None:
    with serving(in_turn(FINE, error(500))) as server:
        asking = endpoint(server, attempts=4)
        asking.backoff = 0.1
        asking.ask(questions(1))
        asking.ask(questions(2))
        times = [r.time for r in server.requests[1:]]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert len(gaps) == 3
    for gap, full in zip(gaps, (0.1, 0.2, 0.4), strict=True):
        assert full / 2 <= gap < full + 0.15


@pytest.mark.parametrize(
    ("bad", "times"), [(error(500), 3), (error(429, headers={"Retry-After": "86400"}), 1), (error(400), 2), (error(413), 1)]
)
def test_question_without_an_answer_is_missing_counted_and_asked_again_next_time(
    endpoint: Callable[..., Endpoint], bad: Reply, times: int
) -> None:
    with serving(lambda r: bad if r.asked == "question 1" else FINE) as server:
        asking = endpoint(server)
        assert asking.ask(questions(3)) == [{"level": 3}, None, {"level": 3}]
        assert (asking.usage.calls, asking.usage.unanswered, asking.usage.unparsable) == (2, 1, 0)
        assert server.asked().count("question 1") == times
        server.behave = in_turn(FINE)
        assert endpoint(server).ask(questions(3)) == [{"level": 3}] * 3
        assert server.asked().count("question 1") == times + 1
        assert len(server.requests) == 2 + times + 1


def test_moderated_question_does_not_stop_the_others(endpoint: Callable[..., Endpoint]) -> None:
    with serving(lambda r: error(403, "flagged") if r.asked == "question 1" else FINE) as server:
        assert endpoint(server, concurrency=1).ask(questions(3)) == [{"level": 3}, None, {"level": 3}]


GOOD = [
    '{"level": 2}',
    ' ```json\n{"level": 2}\n```',
    'Sure: {"level": 2}.',
    '<think>{"level": 5}?</think>\n{"level": 2}',
    '{"level": 2.0}',
]
BAD = [
    "",
    "2",
    "level 2",
    "{'level': 2}",
    '{"level": 2',
    "[2]",
    '{"level": 0}',
    '{"level": 6}',
    '{"level": 2.5}',
    '{"level": "2"}',
    '{"level": true}',
    '{"level": NaN}',
    "{}",
    '{"level": 2, "more": 1}',
    '{"level": 2} or {"level": 3}',
    '{"level": ' + "[" * 100_000 + "}",
    '{"level": ' + "1" * 5000 + "}",
]


def test_only_an_object_that_fits_the_schema_is_an_answer() -> None:
    assert [parse(text, SCHEMA) for text in GOOD] == [{"level": 2}] * len(GOOD)
    assert parse('{"level": null}', SCHEMA) == {"level": None}
    assert [parse(text, SCHEMA) for text in BAD] == [None] * len(BAD)


def ended(reply: Reply, reason: str | None) -> Reply:
    """The reply with another finish_reason; None: it has none."""
    (choice,) = reply.body["choices"]
    choice["finish_reason"] = reason
    return Reply({**reply.body, "choices": [choice if reason else {k: v for k, v in choice.items() if k != "finish_reason"}]})


def test_of_plain_text_it_is_said_and_kept_how_it_ended(endpoint: Callable[..., Endpoint], tmp_path: Path) -> None:
    replies = in_turn(says("Whole"), ended(says("<think>2?</think> It is. And th"), "length"), ended(says("Who knows."), None), says(" "))
    asked = [Question(question.messages, None, "v1") for question in questions(4)]
    told = [("Whole", "stop"), ("It is. And th", "length"), ("Who knows.", "")]
    with serving(replies) as server:
        for _ in range(2):
            answers = endpoint(server, concurrency=1).ask(asked)
            assert answers == [*({"text": text, "finish_reason": reason} for text, reason in told), None]
        assert len(server.requests) == 4
        # As a file of an earlier version.
        with contextlib.closing(sqlite3.connect(tmp_path / "answers.sqlite")) as kept, kept:
            kept.execute("ALTER TABLE answers DROP COLUMN finish_reason")
        assert endpoint(server).ask(asked[:1]) == [{"text": "Whole", "finish_reason": ""}]
        assert len(server.requests) == 4


def test_unparsable_answer_is_missing_counted_and_paid_for_once(endpoint: Callable[..., Endpoint]) -> None:
    with serving(in_turn(says("I'd say two."), says({"level": 9}), says(""), says("\ud83d"), FINE)) as server:
        first, second = endpoint(server, concurrency=1), endpoint(server)
        for asking, calls, cached in ((first, 5, 0), (second, 0, 5)):
            assert asking.ask(questions(5)) == [None] * 4 + [{"level": 3}]
            assert (asking.usage.calls, asking.usage.cached, asking.usage.unparsable, asking.usage.unanswered) == (calls, cached, 4, 0)
        assert len(server.requests) == 5


def test_server_that_takes_no_schema_gets_none_again(endpoint: Callable[..., Endpoint], caplog: pytest.LogCaptureFixture) -> None:
    with serving(lambda r: error(400, "response_format") if "response_format" in r.body else FINE) as server:
        asking = endpoint(server, concurrency=1)
        assert asking.ask(questions(3)) == [{"level": 3}] * 3
        asking.ask(questions(4))
        assert ["response_format" in r.body for r in server.requests] == [True, False, False, False, False]
        assert asking.usage.calls == 4
    assert caplog.text.count("takes no JSON schema") == 1


def test_question_refused_either_way_says_nothing_about_schemas(endpoint: Callable[..., Endpoint]) -> None:
    with serving(lambda r: error(400, "too long") if r.asked == "question 0" else FINE) as server:
        assert endpoint(server, concurrency=1).ask(questions(3)) == [None, {"level": 3}, {"level": 3}]
        assert ["response_format" in r.body for r in server.requests] == [True, False, True, True]


def test_same_question_is_asked_once_and_another_model_wording_or_sampling_anew(endpoint: Callable[..., Endpoint]) -> None:
    with serving(in_turn(FINE)) as server:
        assert endpoint(server).ask(questions(1) * 5) == [{"level": 3}] * 5
        assert len(server.requests) == 1
        endpoint(server, concurrency=1, attempts=1, timeout_seconds=9, input_price=1).ask(questions(1))
        assert len(server.requests) == 1
        endpoint(server, model="another").ask(questions(1))
        endpoint(server, temperature=1).ask(questions(1))
        endpoint(server, max_tokens=5).ask(questions(1))
        endpoint(server).ask(questions(1, version="v2"))
        endpoint(server).ask([questions(1)[0]._replace(schema={**SCHEMA, "required": []})])
        assert len(server.requests) == 6
        assert endpoint(server).ask([]) == []


def test_key_comes_from_the_environment_and_goes_nowhere_but_to_the_server(
    endpoint: Callable[..., Endpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(in_turn(error(500, f"key {KEY}"), FINE)) as server:
        endpoint(server, "1.sqlite").ask(questions(1))
        monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
        endpoint(server, "2.sqlite").ask(questions(1))
        monkeypatch.setenv("MOSLIM_JUDGE_API_KEY", f" {KEY}\n")
        asking = endpoint(server, "3.sqlite")
        asking.ask(questions(1))
        assert [r.headers["authorization"] for r in server.requests] == ["Bearer none"] * 2 + ["Bearer sk-other", f"Bearer {KEY}"]
        for status in (401, 403, 429, 500):
            server.behave = in_turn(error(status, f"Bearer {KEY} is wrong"))
            refused(lambda: endpoint(server, "4.sqlite").ask(questions(2)))
    assert KEY.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert KEY not in caplog.text + asking.settings.model_dump_json() + repr(asking)


def test_key_that_no_header_takes_is_refused_unseen(endpoint: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch) -> None:
    for bad in (f"{KEY}\u2019", f"{KEY}\nX: {KEY}"):
        monkeypatch.setenv("OPENAI_API_KEY", bad)
        assert "holds characters that no key has" in refused(lambda: endpoint("http://127.0.0.1:1/v1"))


@pytest.mark.parametrize("url", ["127.0.0.1:8000/v1", "ftp://host/v1", f"https://user:{KEY}@host/v1", "http://host:port/v1", "https:///v1"])
def test_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="base_url"):
        JudgeSettings(base_url=url)


def test_answers_of_a_model_at_another_address_are_not_taken_for_its_own(endpoint: Callable[..., Endpoint]) -> None:
    with serving(in_turn(says({"level": 1}))) as one, serving(in_turn(says({"level": 2}))) as two:
        for _ in range(2):
            assert endpoint(one).ask(questions(1)) == [{"level": 1}]
            assert endpoint(two).ask(questions(1)) == [{"level": 2}]
        assert len(one.requests) == len(two.requests) == 1
