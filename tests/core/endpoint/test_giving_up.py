"""Servers that answer nothing or wrongly: when asking stops, what the error says, what a killed job has paid."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moslim_core.judging.endpoint import MOST_UNANSWERED, Endpoint, Question
from tests.core.chat_server import ChatServer, Reply, error, in_turn, serving
from tests.core.endpoint.asking import FINE, KEY, SCHEMA, questions, refused


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
    assert message.endswith(").\nStart the server, or correct the address.")


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
from moslim_core.judging.endpoint import Endpoint, Question
from moslim_core.judging.settings import JudgeSettings
schema = {schema!r}
asked = [Question([{{"role": "user", "content": f"question {{n}}"}}], schema, "v1") for n in range(60)]
Endpoint(JudgeSettings(base_url=sys.argv[1], model="judge", concurrency=3), Path(sys.argv[2])).ask(asked)
"""


@pytest.mark.integration
def test_killed_job_pays_nothing_twice(endpoint: Callable[..., Endpoint], tmp_path: Path) -> None:
    with serving(lambda r: FINE._replace(seconds=0.05)) as server:
        command = [sys.executable, "-c", CHILD.format(schema=SCHEMA), server.url, str(tmp_path / "answers.sqlite")]
        child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])})
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
