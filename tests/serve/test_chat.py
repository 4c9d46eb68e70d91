"""OpenAI's own client against the server: answers are those of `SteerablePolicy`, whoever else asks; limits and ends are told cleanly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from flows.serve.local import LocalModel
from moslim_core.policy.steerable import SteerablePolicy
from tests.serve.running import Running, serving, tiny_policy

KEY = "s3cret"
HELLO = [{"role": "user", "content": "Hello"}]
TARGETS: list[dict[str, int]] = [{}, {"warmth": 1}, {"warmth": 3}, {"warmth": 2, "length": 1}, {"length": 2}]


@pytest.fixture(scope="module")
def policy(tiny_chat: Path, tmp_path_factory: pytest.TempPathFactory) -> SteerablePolicy:
    return tiny_policy(tiny_chat, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def running(policy: SteerablePolicy) -> Iterator[Running]:
    with serving(lambda: LocalModel(policy, 32), key=KEY) as running:
        yield running


@pytest.fixture(scope="module")
def client(running: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0)


def until(holds: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


def test_answers_are_those_of_the_policy(policy: SteerablePolicy, client: openai.OpenAI) -> None:
    said = [
        {"role": "system", "content": "Be good."},
        *HELLO,
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Rain?"},
    ]
    answers = set()
    for targets in TARGETS:
        found = client.chat.completions.create(model="moslim", messages=said, temperature=0, extra_body={"preferences": targets})
        (expected,) = policy.chat_batch([said], [targets], temperature=0)
        assert found.choices[0].message.content == expected.text
        assert found.choices[0].finish_reason == ("length" if expected.truncated else "stop")
        assert found.usage.completion_tokens == expected.tokens
        assert found.usage.total_tokens == found.usage.prompt_tokens + expected.tokens
        answers.add(expected.text)
    assert len(answers) > 3
    named = client.chat.completions.create(model="moslim:length=1,warmth=neutral", messages=said, temperature=0)
    assert named.choices[0].message.content == policy.chat_batch([said], [TARGETS[3]], temperature=0)[0].text
    assert named.model == "moslim:length=1,warmth=neutral"


def test_a_seed_gives_the_answer_of_the_policy_with_that_seed(policy: SteerablePolicy, client: openai.OpenAI) -> None:
    found = {
        client.chat.completions.create(model="moslim", messages=HELLO, temperature=1.2, seed=5).choices[0].message.content for _ in "ab"
    }
    assert found == {policy.chat_batch(["Hello"], [None], temperature=1.2, seed=5)[0].text}
    assert (
        len({client.chat.completions.create(model="moslim", messages=HELLO, temperature=1.2).choices[0].message.content for _ in "abc"}) > 1
    )


def test_a_stream_is_the_answer_in_pieces(policy: SteerablePolicy, client: openai.OpenAI) -> None:
    for more in ({}, {"stream_options": {"include_usage": True}}):
        chunks = list(client.chat.completions.create(model="moslim:warmth=3", messages=HELLO, temperature=0, stream=True, **more))
        (expected,) = policy.chat_batch(["Hello"], [{"warmth": 3}], temperature=0)
        parts = [chunk.choices[0] for chunk in chunks if chunk.choices]
        assert "".join(part.delta.content or "" for part in parts) == expected.text
        assert parts[0].delta.role == "assistant"
        assert [part.finish_reason for part in parts if part.finish_reason] == ["length" if expected.truncated else "stop"]
        assert len([part for part in parts if part.delta.content]) > 1
        assert len({chunk.id for chunk in chunks}) == 1
        assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == ([expected.tokens] if more else [])


def test_an_answer_that_ends_by_itself_says_so(policy: SteerablePolicy, client: openai.OpenAI) -> None:
    reasons = set()
    for seed in range(8):
        found = client.chat.completions.create(model="moslim", messages=HELLO, temperature=1.5, seed=seed, max_tokens=60)
        (expected,) = policy.chat_batch(["Hello"], [None], 1.5, 60, seed)
        assert (found.choices[0].message.content, found.choices[0].finish_reason == "length") == (expected.text, expected.truncated)
        assert "<|im_end|>" not in expected.text
        reasons.add(found.choices[0].finish_reason)
        if len(reasons) == 2:
            break
    assert reasons == {"stop", "length"}


def test_models_are_listed(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["moslim", *(f"moslim:warmth={n}" for n in (1, 2, 3)), *(f"moslim:length={n}" for n in (1, 2))]
    assert client.models.retrieve("moslim:warmth=2").id == "moslim:warmth=2"
    assert client.models.retrieve("moslim:warmth=2,length=long").id == "moslim:warmth=2,length=long"
    with pytest.raises(openai.BadRequestError, match="warmth=9 can't be requested"):
        client.models.retrieve("moslim:warmth=9")
    assert client.models.retrieve("moslim").preferences["length"] == {"1": "short", "2": "long"}  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'"):
        client.models.retrieve("other")


@pytest.mark.parametrize(
    ("more", "kind", "words"),
    [
        ({"extra_body": {"preferences": {"wit": 1}}}, openai.BadRequestError, "unknown preference 'wit'"),
        ({"model": "gpt-4o"}, openai.NotFoundError, "there is no model 'gpt-4o'"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "Hi."}]}, openai.BadRequestError, "must end with a user message"),
        ({"messages": [{"role": "user", "content": "rain " * 600}]}, openai.BadRequestError, "leaves room for"),
        ({"messages": [{"role": "user", "content": "x" * 2**20}]}, openai.APIStatusError, "more than 1048576 bytes"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_are_the_clients_own_errors(
    client: openai.OpenAI, more: dict[str, Any], kind: type[openai.APIStatusError], words: str, stream: bool
) -> None:
    with pytest.raises(kind, match=words) as refusal:
        client.chat.completions.create(**{"model": "moslim", "messages": HELLO, "stream": stream, **more})
    assert refusal.value.body["type"] == "invalid_request_error"  # type: ignore[index]


def test_only_who_shows_the_key_is_let_in(running: Running) -> None:
    with pytest.raises(openai.AuthenticationError, match="no valid key"):
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="other", max_retries=0).models.list()
    for path in ("/v1/models", "/metrics", "/nowhere"):
        assert httpx.get(running.url + path).status_code == 401
    assert httpx.get(f"{running.url}/health").json() == {"status": "ok"}
    # A scheme has no case (RFC 9110).
    assert httpx.get(f"{running.url}/v1/models", headers={"Authorization": f"bearer {KEY}"}).status_code == 200
    for wrong in (KEY, f"Basic {KEY}", f"Bearer {KEY}x", "Bearer \u00e9"):
        assert httpx.get(f"{running.url}/v1/models", headers=[(b"Authorization", wrong.encode())]).status_code == 401


@pytest.mark.parametrize(
    ("headers", "method", "path", "status"),
    [
        ({"Host": "evil.example:80"}, "GET", "/v1/models", 403),
        ({"Host": "[evil"}, "GET", "/v1/models", 403),
        ({"Content-Type": "text/plain"}, "POST", "/v1/chat/completions", 415),
        ({"Content-Type": "application/json"}, "POST", "/v1/chat/completions", 400),
        ({}, "GET", "/v1/chat/completions", 405),
        ({}, "POST", "/v1/completions", 404),
    ],
)
def test_other_requests_are_refused_in_the_same_format(
    running: Running, headers: dict[str, str], method: str, path: str, status: int
) -> None:
    found = httpx.request(method, running.url + path, headers={"Authorization": f"Bearer {KEY}", **headers}, content=b"{")
    assert found.status_code == status
    assert set(found.json()["error"]) == {"message", "type", "param", "code"}


def test_numbers_are_counted(running: Running, client: openai.OpenAI) -> None:
    def numbers() -> dict[str, float]:
        lines = httpx.get(f"{running.url}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}

    before = numbers()
    found = client.chat.completions.create(model="moslim", messages=HELLO, temperature=0)
    after = numbers()
    assert after['moslim_requests_total{status="200"}'] == before['moslim_requests_total{status="200"}'] + 1
    assert after["moslim_answer_tokens_total"] == before["moslim_answer_tokens_total"] + found.usage.completion_tokens
    assert after["moslim_prompt_tokens_total"] == before["moslim_prompt_tokens_total"] + found.usage.prompt_tokens
    assert after["moslim_request_seconds_count"] == before["moslim_request_seconds_count"] + 1
    assert after["moslim_requests_waiting"] == after["moslim_requests_going"] == 0


LONG = {"model": "moslim", "messages": HELLO, "max_tokens": 400, "temperature": 0}


@pytest.fixture
def slow(policy: SteerablePolicy) -> Iterator[SteerablePolicy]:
    """The same, with a while for each token: LONG takes many seconds."""
    hook = policy.model.register_forward_pre_hook(lambda *_: time.sleep(0.03))
    yield policy
    hook.remove()


def test_clients_that_go_away_free_their_places(slow: SteerablePolicy) -> None:
    with serving(lambda: LocalModel(slow, 1), most=2) as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
        stream = client.chat.completions.create(**LONG, stream=True)
        next(iter(stream))
        # One that waits, and goes away; then one that waits on.
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.3).chat.completions.create(**LONG)
        assert until(lambda: running.service.going == 1)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.chat.completions.create, model="moslim", messages=HELLO, temperature=0)
            assert until(lambda: running.service.going == 2)
            with pytest.raises(openai.RateLimitError, match="ask again later") as refusal:
                client.chat.completions.create(**LONG)
            assert int(refusal.value.response.headers["retry-after"]) >= 1
            stream.close()
            assert waiting.result(20).choices[0].message.content == slow.chat_batch(["Hello"], [None], temperature=0)[0].text
        assert until(lambda: running.service.going == 0)


def test_a_server_that_ends_says_so_to_all_who_wait(slow: SteerablePolicy) -> None:
    with serving(lambda: LocalModel(slow, 1)) as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
        stream = client.chat.completions.create(**LONG, stream=True)
        next(iter(stream))

        async def wait() -> None:
            asker = openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
            asked = asyncio.ensure_future(asker.chat.completions.create(**LONG))
            while running.service.going < 2:
                await asyncio.sleep(0.01)
            running.stop()
            await asked

        with pytest.raises(openai.InternalServerError, match="the server is stopping"):
            asyncio.run(wait())
        with pytest.raises(openai.APIError, match="the server is stopping"):
            list(stream)


def test_a_model_that_fails_costs_those_answers_and_no_others(policy: SteerablePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda: LocalModel(policy, 4)) as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
        with monkeypatch.context() as patch:
            patch.setattr(policy.model, "forward", lambda **inputs: 1 / 0)
            with pytest.raises(openai.InternalServerError, match="the model could not answer: division by zero"):
                client.chat.completions.create(model="moslim", messages=HELLO)
        found = client.chat.completions.create(model="moslim", messages=HELLO, temperature=0).choices[0].message.content
        assert found == policy.chat_batch(["Hello"], [None], temperature=0)[0].text
