"""Ask an OpenAI-compatible chat endpoint many questions: a local vLLM or Ollama, or a paid service (ours, on the openai client).

Every answer is stored by its question's content, in one SQLite file and from the moment it arrives: a killed job pays nothing twice.
The key comes from the environment alone, and stands in no file, log or error.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import random
import sqlite3
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from jsonschema import Draft202012Validator
from pydantic import BaseModel

from moslim_core.errors import UserError
from moslim_core.json_text import well_formed
from moslim_core.judging.settings import JudgeSettings
from moslim_core.preferences import Message

log = logging.getLogger(__name__)

T = TypeVar("T")

KEYS = ("MOSLIM_JUDGE_API_KEY", "OPENAI_API_KEY")
CONNECT_SECONDS = 10.0
# Seconds. A server that wants a longer pause than this has no more to give today.
LONGEST_PAUSE = 300.0
LONGEST_BACKOFF = 60.0
# So many questions in a row without an answer are no accident: the rest is not sent.
MOST_UNANSWERED = 20

SELECT = "SELECT text, finish_reason FROM answers WHERE digest = ?"


class Question(NamedTuple):
    """What one request asks. `schema`: JSON schema of the answer, an object; None where any text will do, which is given as
    {"text": ..., "finish_reason": ...}: `stop` at its own end, `length` where the limit cut it, '' where the server did not say.
    `version`: of the prompt behind `messages`."""

    messages: list[Message]
    schema: dict[str, Any] | None
    version: str


class Usage(BaseModel):
    """What answers cost. Tokens and `cost` (in the currency of the prices) are those of `calls`, the requests that were answered now.

    `cached`: questions that an earlier request had answered; `unparsable`: answers that were no JSON or did not fit the schema;
    `unanswered`: questions that the endpoint refused, or did not answer in all attempts.
    """

    calls: int = 0
    cached: int = 0
    unparsable: int = 0
    unanswered: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


class _Said(NamedTuple):
    """What is kept of an answer."""

    text: str
    finish_reason: str


class _Reply(NamedTuple):
    said: _Said
    input_tokens: int
    output_tokens: int


class _NoReply(Exception):
    """Why a request brought nothing. `pause`: the least number of seconds before asking again, None where that is no use."""

    def __init__(self, reason: str, pause: float | None = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


class Endpoint:
    """One model behind one address. `usage` adds up over calls of `ask`; `backoff` is the first pause before asking again, in seconds."""

    def __init__(self, settings: JudgeSettings, cache: Path, backoff: float = 1.0) -> None:
        self.settings, self.cache, self.backoff = settings, cache, backoff
        self.usage = Usage()
        sampling = {"temperature": settings.temperature, "max_tokens": settings.max_tokens}
        self._sampling = {name: value for name, value in sampling.items() if value is not None}
        self._key = next((key for name in KEYS if (key := os.environ.get(name, "").strip())), "")
        if not (self._key.isascii() and self._key.isprintable()):
            raise UserError(f"the key in {' or '.join(KEYS)} holds characters that no key has.\nCopy it again.")
        # Own random numbers: pauses must not move anybody's seeds.
        self._random = random.Random()
        self._takes_schemas = True
        self._reached = False  # the server said something, if only an error
        self._works = False  # the model answered, now or in an earlier run
        self._silent, self._why = 0, ""  # questions in a row that were not answered, and the last one's reason

    def ask(self, questions: Sequence[Question]) -> list[dict[str, Any] | None]:
        """The answer to each question, in the order given; None where there is none that fits its schema.

        Raises UserError where asking on is no use: a refused key, an unknown model, no server, many questions in a row unanswered.
        """
        digests = [self._digest(question) for question in questions]
        try:
            with contextlib.closing(self._open()) as cache:
                said = {digest: _Said(*row) for digest in digests if (row := cache.execute(SELECT, (digest,)).fetchone())}
                self._works = self._works or bool(said)
                self.usage.cached += sum(digest in said for digest in digests)
                waiting = {digest: question for digest, question in zip(digests, questions, strict=True) if digest not in said}
                if waiting:
                    said |= _run(self._ask_all(waiting, cache))
        except sqlite3.Error as error:
            raise UserError(
                f"{self.cache}: answers can't be kept ({error}).\nFree disk space, or delete the file: its answers are then paid for again."
            ) from error
        answers = [_answer(said[d], q.schema) if d in said else None for d, q in zip(digests, questions, strict=True)]
        unanswered = sum(digest not in said for digest in digests)
        self.usage.unanswered += unanswered
        self.usage.unparsable += answers.count(None) - unanswered
        return answers

    def _digest(self, question: Question) -> str:
        # The same name may stand for another model at another address.
        content = [
            self.settings.base_url.rstrip("/"),
            self.settings.model,
            question.version,
            question.messages,
            question.schema,
            self._sampling,
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _open(self) -> sqlite3.Connection:
        self.cache.parent.mkdir(parents=True, exist_ok=True)
        # One thread at a time uses it, though not always the one that opened it (`_run`). Each statement is committed by itself.
        cache = sqlite3.connect(self.cache, timeout=60, isolation_level=None, check_same_thread=False)
        cache.execute("CREATE TABLE IF NOT EXISTS answers (digest TEXT PRIMARY KEY, text TEXT NOT NULL)")
        # Earlier versions kept the text alone, and what was paid for stays of use.
        with contextlib.suppress(sqlite3.OperationalError):  # the column is there
            cache.execute("ALTER TABLE answers ADD COLUMN finish_reason TEXT NOT NULL DEFAULT ''")
        return cache

    async def _ask_all(self, waiting: Mapping[str, Question], cache: sqlite3.Connection) -> dict[str, _Said]:
        """{digest: answer} of the questions that were answered, each stored as it arrives."""
        from openai import AsyncOpenAI, Timeout

        said: dict[str, _Said] = {}
        left = iter(waiting.items())

        async def work(client: AsyncOpenAI) -> None:
            for digest, question in left:
                try:
                    reply = await self._persist(client, question)
                except _NoReply as failure:
                    self._give_up(failure)
                    continue
                cache.execute("INSERT OR REPLACE INTO answers (digest, text, finish_reason) VALUES (?, ?, ?)", (digest, *reply.said))
                said[digest] = reply.said
                self._count(reply)

        async with AsyncOpenAI(
            # The client insists on a key; a server that needs none does not read it.
            api_key=self._key or "none",
            base_url=self.settings.base_url,
            max_retries=0,
            timeout=Timeout(None, connect=CONNECT_SECONDS),
        ) as client:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.settings.concurrency, len(waiting))):
                        group.create_task(work(client))
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
        if not self._works:
            raise self._stopped()
        return said

    async def _persist(self, client: Any, question: Question) -> _Reply:
        """Ask until there is a reply: pauses double, are spread at random, and are never shorter than the server asks for."""
        attempt = 1
        while True:
            try:
                return await self._request(client, question)
            except _NoReply as failure:
                if failure.pause is None or attempt == self.settings.attempts:
                    raise
                backoff = min(self.backoff * 2 ** (attempt - 1), LONGEST_BACKOFF)
                spread = self._random.uniform(0.5, 1.0)
                await asyncio.sleep(max(failure.pause + spread * self.backoff, spread * backoff))
                attempt += 1

    async def _request(self, client: Any, question: Question) -> _Reply:
        from openai import APIConnectionError, APIStatusError

        try:
            # The client's own limit is on the gap between two bytes: a trickle would hold a place for ever.
            async with asyncio.timeout(self.settings.timeout_seconds):
                completion = await self._complete(client, question)
        except TimeoutError:
            self._reached = True  # connecting has its own, shorter limit
            raise _NoReply(f"no answer within {self.settings.timeout_seconds:g} s") from None
        except APIConnectionError as error:
            raise _NoReply(self._shown(error.__cause__ or error)) from None
        except APIStatusError as error:
            self._reached = True
            raise self._refusal(error.status_code, self._shown(error), _retry_after(error.response.headers)) from None
        except (json.JSONDecodeError, UnicodeDecodeError):
            completion = None
        self._reached = True
        return _reply(completion)

    async def _complete(self, client: Any, question: Question) -> Any:
        """One request; a second one without the schema where the server refuses the first, which it then never gets again."""
        from openai import BadRequestError, UnprocessableEntityError

        messages = [{**message, "content": well_formed(message["content"])} for message in question.messages]
        plain = {"model": self.settings.model, "messages": messages, **self._sampling}
        if self._takes_schemas and question.schema is not None:
            schema = {"name": "answer", "schema": question.schema, "strict": True}
            try:
                return await client.chat.completions.create(**plain, response_format={"type": "json_schema", "json_schema": schema})
            except (BadRequestError, UnprocessableEntityError):
                completion = await client.chat.completions.create(**plain)
            if self._takes_schemas:
                self._takes_schemas = False
                log.warning("%s takes no JSON schema: answers are held to it here only", self.settings.base_url)
            return completion
        return await client.chat.completions.create(**plain)

    def _refusal(self, status: int, reason: str, retry_after: float) -> _NoReply | UserError:
        url, model = self.settings.base_url, self.settings.model
        # Later a 403 is about the question: some services answer so where they moderate.
        if status == 401 or (status == 403 and not self._works):
            what = "refuses the key" if self._key else "wants a key, and none is set"
            return UserError(f"{url} {what} ({status}).\nPut a valid one into the environment variable {KEYS[0]} (or {KEYS[1]}).")
        if status == 404:
            return UserError(f"{url} does not serve {model!r} (404).\nCheck the judge's model, and its base_url, which mostly ends in /v1.")
        if status in (408, 409, 429) or status >= 500:
            return _NoReply(reason, retry_after if retry_after <= LONGEST_PAUSE else None)
        return _NoReply(reason, None)

    def _give_up(self, failure: _NoReply) -> None:
        """Go on to the next question, unless there is no server or too many went unanswered."""
        self._silent, self._why = self._silent + 1, str(failure)
        if not self._reached:
            raise UserError(f"{self.settings.base_url} can't be reached ({failure}).\nStart the server, or correct the address.")
        if self._silent == MOST_UNANSWERED:
            raise self._stopped()

    def _stopped(self) -> UserError:
        return UserError(
            f"{self.settings.base_url} left {self._silent} questions in a row unanswered ({self._why}).\n"
            "Mend that and run again: what was answered is kept."
        )

    def _count(self, reply: _Reply) -> None:
        self._works, self._silent = True, 0
        usage, settings = self.usage, self.settings
        usage.calls += 1
        usage.input_tokens += reply.input_tokens
        usage.output_tokens += reply.output_tokens
        usage.cost = (usage.input_tokens * settings.input_price + usage.output_tokens * settings.output_price) / 1e6

    def _shown(self, error: BaseException) -> str:
        """The error's first line for people, without the key, which some servers repeat."""
        text = str(error) or type(error).__name__
        if self._key:
            text = text.replace(self._key, "[key]")
        return text.splitlines()[0][:200]


def _reply(completion: Any) -> _Reply:
    """What the model said, '' if nothing. Raises _NoReply on anything but a chat completion, such as a proxy's page."""
    try:
        choice, usage = completion.choices[0], completion.usage
        content, reason = choice.message.content, getattr(choice, "finish_reason", None)
    except (AttributeError, TypeError, IndexError):
        raise _NoReply("what came back is no chat completion") from None
    tokens = (usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else (0, 0)
    said = _Said(*(well_formed(part) if isinstance(part, str) else "" for part in (content, reason)))
    return _Reply(said, *tokens)


def _answer(said: _Said, schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What `ask` gives for an answer, None where there is nothing in it that fits."""
    if schema is not None:
        return parse(said.text, schema)
    text = _without_reasoning(said.text).strip()
    return {"text": text, "finish_reason": said.finish_reason} if text else None


def _without_reasoning(text: str) -> str:
    return text.rpartition("</think>")[2]


def parse(text: str, schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """The JSON object in `text` if it fits `schema`, else None. Reasoning before it and a code fence around it are passed over."""
    text = _without_reasoning(text)
    try:
        value = json.loads(text[text.find("{") : text.rfind("}") + 1])
    except (ValueError, RecursionError):
        return None
    return value if Draft202012Validator(schema).is_valid(value) else None


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks to wait, by a number or a date; 0 where it says nothing that can be read."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return max(0.0, seconds)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """asyncio.run, and in a thread of its own where a loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
