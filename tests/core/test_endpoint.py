"""Many questions to a server that misbehaves: answers in their places, nothing paid twice, the key nowhere, errors with a remedy."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from moslim_core.endpoint import MOST_UNANSWERED, Endpoint, Question, Usage, _retry_after, parse
from moslim_core.errors import UserError
from moslim_core.settings import JudgeSettings
from tests.core.chat_server import ChatServer, Reply, Request, error, in_turn, says, serving

SCHEMA = {
    "type": "object",
    "properties": {"level": {"type": ["integer", "null"], "minimum": 1, "maximum": 5}},
    "required": ["level"],
    "additionalProperties": False,
}
KEY = "sk-do-not-tell-4711"
FINE = says({"level": 3})


def questions(count: int, version: str = "v1") -> list[Question]:
    return [Question([{"role": "user", "content": f"question {n}"}], SCHEMA, version) for n in range(count)]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MOSLIM_JUDGE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def endpoint(tmp_path: Path) -> Callable[..., Endpoint]:
    def make(server: ChatServer | str, name: str = "answers.sqlite", **settings: Any) -> Endpoint:
        url = server if isinstance(server, str) else server.url
        given = {"base_url": url, "model": "judge", "timeout_seconds": 5, "attempts": 3, **settings}
        return Endpoint(JudgeSettings.model_validate(given), tmp_path / name, backoff=0.01)

    return make


def by_number(request: Request) -> Reply:
    """Level 1..5 by the question's number, the later ones faster."""
    number = int(request.asked.split()[-1])
    return says({"level": 1 + number % 5}, seconds=0.04 - 0.001 * number)


def refused(run: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        run()
    shown = "".join(traceback.format_exception(caught.value))
    assert KEY not in shown
    assert len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


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


@pytest.mark.parametrize(
    ("status", "key", "says_"),
    [
        (401, KEY, "refuses the key (401).\nPut a valid one into the environment variable MOSLIM_JUDGE_API_KEY (or OPENAI_API_KEY)."),
        (403, KEY, "refuses the key (403).\nPut a valid one"),
        (401, "", "wants a key, and none is set (401).\nPut a valid one"),
        (404, "", "does not serve 'judge' (404).\nCheck the judge's model, and its base_url"),
    ],
)
def test_wrong_key_or_model_stops_at_once(
    endpoint: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch, status: int, key: str, says_: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with serving(in_turn(error(status, f"Bearer {key}"))) as server:
        message = refused(lambda: endpoint(server, concurrency=2).ask(questions(50)))
        assert message.startswith(f"{server.url} {says_}")
        assert len(server.requests) <= 2


def test_server_that_is_not_there_stops_after_its_attempts(endpoint: Callable[..., Endpoint]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    message = refused(lambda: endpoint(url).ask(questions(50)))
    assert message.startswith(f"{url} can't be reached (")
    assert message.endswith(").\nStart the server, or correct the judge's base_url.")


def test_many_questions_in_a_row_unanswered_stop_the_rest(endpoint: Callable[..., Endpoint]) -> None:
    with serving(lambda r: FINE if int(r.asked.split()[-1]) < 10 else error(429, "You have no credit left.")) as server:
        asking = endpoint(server, attempts=1)
        message = refused(lambda: asking.ask(questions(100)))
        assert f"left {MOST_UNANSWERED} questions in a row unanswered (Error code: 429" in message
        assert "You have no credit left." in message
        assert message.endswith("Mend that and run again: what was answered is kept.")
        assert len(server.requests) < 10 + MOST_UNANSWERED + 2 * asking.settings.concurrency
        server.behave = in_turn(FINE)
        assert endpoint(server).ask(questions(100)) == [{"level": 3}] * 100
        assert len(set(server.asked()[:10])) == 10
        assert all(server.asked().count(f"question {n}") == 1 for n in range(10))


def test_endpoint_that_answers_nothing_is_no_result(endpoint: Callable[..., Endpoint]) -> None:
    with serving(in_turn(error(400, "max_tokens is not supported"))) as server:
        assert "max_tokens is not supported" in refused(lambda: endpoint(server).ask(questions(3)))
    with serving(in_turn(Reply("<html>"))) as server:
        assert "what came back is no chat completion" in refused(lambda: endpoint(server).ask(questions(3)))
    with serving(in_turn(FINE._replace(seconds=0.5))) as server:
        assert "no answer within 0.1 s" in refused(lambda: endpoint(server, timeout_seconds=0.1).ask(questions(3)))


def test_one_hopeless_question_left_of_an_earlier_run_stops_nothing(endpoint: Callable[..., Endpoint]) -> None:
    with serving(lambda r: error(400) if r.asked == "question 2" else FINE) as server:
        for _ in range(2):
            assert endpoint(server).ask(questions(3)) == [{"level": 3}, {"level": 3}, None]


def test_trickle_of_bytes_does_not_hold_a_place_for_ever(endpoint: Callable[..., Endpoint]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asking = endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", timeout_seconds=0.3, attempts=1)

        def trickle() -> None:
            connection, _ = listener.accept()
            with connection:
                for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + b" " * 100:
                    try:
                        connection.sendall(bytes([byte]))
                    except OSError:
                        return
                    time.sleep(0.05)

        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        started = time.monotonic()
        assert "no answer within 0.3 s" in refused(lambda: asking.ask(questions(1)))
        assert time.monotonic() - started < 2
        thread.join(5)


def test_it_works_inside_a_running_loop(endpoint: Callable[..., Endpoint]) -> None:
    async def notebook(server: ChatServer) -> Any:
        return endpoint(server).ask(questions(2))

    with serving(in_turn(FINE)) as server:
        assert asyncio.run(notebook(server)) == [{"level": 3}] * 2


def test_cut_emoji_can_be_asked_about(endpoint: Callable[..., Endpoint]) -> None:
    with serving(in_turn(FINE)) as server:
        cut = Question([{"role": "user", "content": "so \ud83d, \U0001f600"}], SCHEMA, "v1")
        assert endpoint(server).ask([cut]) == [{"level": 3}]
        assert server.asked() == ["so \ufffd, \U0001f600"]


def test_file_that_is_no_cache_is_named(endpoint: Callable[..., Endpoint], tmp_path: Path) -> None:
    (tmp_path / "answers.sqlite").write_text("no database, but long enough to be looked at as one" * 100)
    with serving(in_turn(FINE)) as server:
        message = refused(lambda: endpoint(server).ask(questions(1)))
    assert message.startswith(f"{tmp_path / 'answers.sqlite'}: answers can't be kept (file is not a database).")


CHILD = """
import sys
from pathlib import Path
from moslim_core.endpoint import Endpoint, Question
from moslim_core.settings import JudgeSettings
schema = {schema!r}
asked = [Question([{{"role": "user", "content": f"question {{n}}"}}], schema, "v1") for n in range(60)]
Endpoint(JudgeSettings(base_url=sys.argv[1], model="judge", concurrency=3), Path(sys.argv[2])).ask(asked)
"""


@pytest.mark.integration
def test_killed_job_pays_nothing_twice(endpoint: Callable[..., Endpoint], tmp_path: Path) -> None:
    with serving(lambda r: FINE._replace(seconds=0.05)) as server:
        command = [sys.executable, "-c", CHILD.format(schema=SCHEMA), server.url, str(tmp_path / "answers.sqlite")]
        child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
        deadline = time.monotonic() + 60
        while len(server.requests) < 20 and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        time.sleep(0.2)  # the requests that it had out
        paid = len(server.requests)
        with sqlite3.connect(tmp_path / "answers.sqlite") as cache:
            kept = cache.execute("SELECT count(*) FROM answers").fetchone()[0]
        assert 20 - 3 <= kept <= paid < 60
        assert kept >= paid - 3
        asking = endpoint(server)
        assert asking.ask(questions(60)) == [{"level": 3}] * 60
        assert (asking.usage.calls, asking.usage.cached) == (60 - kept, kept)
        assert len(server.requests) == paid + 60 - kept
        assert set(server.asked()) == {f"question {n}" for n in range(60)}
