"""Answers of another server that runs the model, such as vLLM or Ollama: this one writes the instruction, and nobody else does.

Such a server reads special tokens and delimiters wherever they stand in a text. So what clients write is sent without them, and nothing of
a request is passed on but its conversation and how its answer is drawn.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flows.serve.answers import Piece, Usage
from flows.serve.errors import ApiError
from flows.serve.request import Asked
from moslim_core.data.rows import well_formed
from moslim_core.errors import UserError
from moslim_core.policy.artifact import PolicyCard
from moslim_core.policy.steerable import conditioned
from moslim_core.preferences.tokens import unmarked

KEY = "MOSLIM_UPSTREAM_API_KEY"
CONNECT_SECONDS = 5.0
# Between two pieces of an answer, or for the whole of one that comes at once.
READ_SECONDS = 300.0
# Stated, so that the server fills nothing in from the model's own settings. (sampling.py)
PLAIN = {"top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}


def require_address(url: str) -> None:
    """Raises UserError for one that no client could ask."""
    if not re.match(r"https?://[^/\s]+", url):
        raise UserError(f"--upstream {url!r} is no address.\nGive one such as http://127.0.0.1:8001/v1.")


class Upstream:
    """The model `model` at `url` (which mostly ends in /v1), asked as the policy of `card` is asked."""

    def __init__(self, url: str, model: str, card: PolicyCard, tokenizer: Any, read_seconds: float = READ_SECONDS) -> None:
        from openai import AsyncOpenAI, Timeout

        self.url, self.model, self.card, self.tokenizer = url, model, card, tokenizer
        self._client = AsyncOpenAI(
            # The client insists on a key; a server that needs none does not read it.
            api_key=os.environ.get(KEY, "").strip() or "none",
            base_url=url,
            max_retries=0,
            timeout=Timeout(read_seconds, connect=CONNECT_SECONDS),
        )
        self.waiting = 0
        # That of the server's own model, which refuses what is too long.
        self.context = 10**9
        # One thread, apart from the event loop: a long prompt takes a while to go through.
        self._reading = ThreadPoolExecutor(1, "reading")

    def messages(self, request: Asked) -> list[dict[str, str]]:
        """The conversation as it is sent."""
        said = [{**message, "content": well_formed(message["content"])} for message in request.messages]
        return conditioned(self.card, unmarked(self.tokenizer, said), request.targets)

    async def answer(self, request: Asked) -> AsyncGenerator[Piece, None]:
        """The answer's pieces as the server sends them. Raises ApiError: 400 for what can't be asked, 502 or 504 where the server fails."""
        from openai import OpenAIError

        try:
            messages = await asyncio.get_running_loop().run_in_executor(self._reading, self.messages, request)
        except UserError as error:
            raise ApiError(400, str(error), "messages") from None
        # Ollama's and older servers' name for it, which the others still read.
        drawing = {"max_tokens": request.max_tokens, "temperature": request.temperature, "seed": request.seed}
        body: dict[str, Any] = {"model": self.model, "messages": messages, **drawing, **PLAIN}
        self.waiting += 1
        begun = False
        try:
            if not request.stream:
                completion = await self._client.chat.completions.create(**body)
                yield _whole(completion)
                return
            if request.include_usage:
                body["stream_options"] = {"include_usage": True}
            finish, usage = None, None
            async with await self._client.chat.completions.create(**body, stream=True) as stream:
                async for chunk in stream:
                    if not begun:
                        begun = True
                        self.waiting -= 1
                    text, why = _part(chunk)
                    finish, usage = why or finish, _usage(chunk) or usage
                    if text:
                        yield Piece(text)
            if finish is None:
                raise ApiError(502, f"{self.url} ended the answer without saying why", code="upstream_failed")
            yield Piece("", finish, usage)
        except (OpenAIError, OSError, ValueError) as error:
            raise self._refusal(error) from None
        except Exception as error:
            # The client lets some errors of its HTTP library through while it reads a stream.
            if type(error).__module__.split(".")[0] not in ("httpx", "httpcore", "h11"):
                raise
            raise self._refusal(error) from None
        finally:
            self.waiting -= not begun

    def _refusal(self, error: Exception) -> ApiError:
        from httpx import TimeoutException
        from openai import APIStatusError, APITimeoutError

        if isinstance(error, APITimeoutError | TimeoutException):
            return ApiError(504, f"{self.url} did not answer in time", code="upstream_timeout")
        if not isinstance(error, APIStatusError):
            reason = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0][:200]
            return ApiError(502, f"{self.url} did not answer: {reason}", code="upstream_failed")
        status, reason = error.status_code, _reason(error)
        if status in (400, 413, 422):
            return ApiError(400, f"{self.url} refuses the request: {reason}", code="upstream_refused")
        if status == 429:
            wait = error.response.headers.get("retry-after", "1")
            return ApiError(429, f"{self.url} has too much to do", code="upstream_busy", headers={"Retry-After": wait})
        why = {401: f"refuses the key in {KEY}", 403: f"refuses the key in {KEY}", 404: f"does not serve {self.model!r}"}
        return ApiError(502, f"{self.url} {why.get(status, f'failed with status {status}')}", code="upstream_failed")

    async def close(self) -> None:
        self._reading.shutdown(wait=False, cancel_futures=True)
        await self._client.close()


def _whole(completion: Any) -> Piece:
    """Raises ApiError on anything but a chat completion, such as a proxy's page."""
    try:
        choice = completion.choices[0]
        text, finish = choice.message.content or "", choice.finish_reason
    except (AttributeError, TypeError, IndexError):
        raise ApiError(502, "what came back from the server behind this one is no chat completion", code="upstream_failed") from None
    return Piece(well_formed(text), "length" if finish == "length" else "stop", _usage(completion))


def _part(chunk: Any) -> tuple[str, Any]:
    """(text, why it ends or None) of a part of a stream; the last part with the usage has no choice."""
    choice = next(iter(getattr(chunk, "choices", None) or []), None)
    if choice is None:
        return "", None
    finish = choice.finish_reason and ("length" if choice.finish_reason == "length" else "stop")
    return well_formed(choice.delta.content or "") if choice.delta else "", finish


def _usage(answer: Any) -> Usage | None:
    usage = getattr(answer, "usage", None)
    return Usage(usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else None


def _reason(error: Any) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    said = body.get("message") or body.get("error") or error.message
    return str(said).splitlines()[0][:300] if said else f"status {error.status_code}"
