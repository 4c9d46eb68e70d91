"""What a client may ask, read and checked: a conversation, targets, and how long and how freely the answer is drawn."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.serve.errors import ApiError
from moslim_core.errors import UserError
from moslim_core.preferences import Message, Preference, PreferenceSchema, Targets
from moslim_core.preferences.prompting import ROLES
from moslim_core.sampling import LOWEST_TEMPERATURE

# That of `moslim chat`.
TEMPERATURE = 0.7
# What OpenAI's interface has and this one does not, with the values that ask for nothing: answers are drawn from the model's own
# distribution, one for each request.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "top_p": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "stop": ([],),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
}
# About who asks, and what a service keeps of it; no answer depends on them.
IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
# OpenAI's newer name of a system message.
SYSTEM = "developer"


class _StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    messages: list[Any]
    preferences: dict[str, Any] | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None


@dataclass(frozen=True)
class Asked:
    """A request that can be answered. `model`: as the client wrote it."""

    model: str
    messages: list[Message]
    targets: Targets
    temperature: float
    max_tokens: int
    seed: int
    stream: bool
    include_usage: bool


@dataclass(frozen=True)
class Offer:
    """What can be asked for: the model by its name, preferences of its schema, and how many tokens an answer has at most."""

    name: str
    schema: PreferenceSchema
    usual_tokens: int
    max_tokens: int

    @property
    def models(self) -> list[str]:
        """The model, and with each level of one preference: names that a client without `preferences` can choose from."""
        return [self.name, *(f"{self.name}:{p.name}={level}" for p in self.schema.preferences for level in p.requestable)]


def read(body: bytes, offer: Offer) -> Asked:
    """Raises ApiError for what can't be asked."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is no JSON: {str(error)[:200]}") from None
    if not isinstance(given, dict):
        raise ApiError(400, "the body is no JSON object")
    for name, values in NEUTRAL.items():
        value = given.pop(name, None)
        # Not by `in`: to Python, 1 is True.
        if value is not None and not any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in values):
            allowed = " or ".join(json.dumps(v) for v in values)
            raise ApiError(400, f"{name}={_shown(value)} is not supported: leave it out, or give {allowed}", name, "unsupported_parameter")
    for name in IGNORED:
        given.pop(name, None)
    try:
        parsed = _Body.model_validate(given)
    except ValidationError as error:
        raise _invalid(error) from None
    if parsed.temperature is not None and 0 < parsed.temperature < LOWEST_TEMPERATURE:
        raise ApiError(
            400, f"temperature={parsed.temperature} is none: give 0 for greedy answers, or {LOWEST_TEMPERATURE:g} and more", "temperature"
        )
    levels = levels_in_name(parsed.model, offer)
    given_levels = parsed.preferences or {}
    in_body = _levels({name: level for name, level in given_levels.items() if level is not None}, offer.schema, "preferences")
    for name in levels.keys() & given_levels.keys():
        if levels[name] != in_body.get(name):
            raise ApiError(
                400, f"{name} is {levels[name]} in the model's name and {in_body.get(name, 'open')} in preferences: give it one level",
                "preferences",
            )  # fmt: skip
    levels |= in_body
    if parsed.max_tokens and parsed.max_completion_tokens and parsed.max_tokens != parsed.max_completion_tokens:
        raise ApiError(400, "max_tokens and max_completion_tokens are one thing under two names: give one of them", "max_tokens")
    longest = parsed.max_completion_tokens or parsed.max_tokens or offer.usual_tokens
    if longest > offer.max_tokens:
        raise ApiError(400, f"max_tokens={longest} is more than {offer.max_tokens}, the most that is served", "max_tokens")
    return Asked(
        model=parsed.model,
        messages=_messages(parsed.messages),
        targets=offer.schema.targets(levels),
        temperature=TEMPERATURE if parsed.temperature is None else parsed.temperature,
        max_tokens=longest,
        seed=secrets.randbits(63) if parsed.seed is None else parsed.seed,
        stream=bool(parsed.stream),
        include_usage=bool(parsed.stream_options and parsed.stream_options.include_usage),
    )


def level_of(preference: Preference, given: Any) -> int:
    """A level by its number or its word. Raises UserError."""
    if isinstance(given, str):
        word = " ".join(given.split()).casefold()
        words = [label.casefold() for label in preference.levels]
        if words.count(word) == 1:
            return words.index(word) + 1
        # Not `isdigit`: superscripts are digits that no number is read from.
        given = int(word) if re.fullmatch("[0-9]{1,9}", word) else given
    if isinstance(given, bool) or not isinstance(given, int) or given not in preference.requestable:
        levels = ", ".join(f"{level} ({preference.label(level)})" for level in preference.requestable)
        raise UserError(f"{preference.name}={_shown(given)} can't be requested: levels are {levels}")
    return given


def levels_in_name(model: str, offer: Offer) -> dict[str, int]:
    """Levels in 'NAME:warmth=3,verbosity=short'. Raises ApiError."""
    name, _, rest = model.partition(":")
    if name != offer.name:
        raise ApiError(404, f"there is no model {_shown(model)}: this is {offer.name!r}", "model", "model_not_found")
    levels: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        preference, _, level = (piece.strip() for piece in part.partition("="))
        if not level:
            raise ApiError(
                404, f"can't read {_shown(part)} in the model's name: write {offer.name}:NAME=LEVEL,...", "model", "model_not_found"
            )
        if preference in levels:
            raise ApiError(400, f"{preference} is asked for twice in the model's name: give it one level", "model")
        levels[preference] = level
    return _levels(levels, offer.schema, "model")


def _levels(given: Mapping[str, Any], schema: PreferenceSchema, param: str) -> dict[str, int]:
    levels = {}
    for name, level in given.items():
        if name not in schema.names:
            raise ApiError(400, f"unknown preference {_shown(name)}: there are {', '.join(schema.names)}", param, "unknown_preference")
        try:
            levels[name] = level_of(schema[name], level)
        except UserError as error:
            raise ApiError(400, str(error), param, "unknown_level") from None
    return levels


def _messages(given: list[Any]) -> list[Message]:
    if not given:
        raise ApiError(400, "messages is empty: give at least one user message", "messages")
    return [_message(message, f"messages[{place}]") for place, message in enumerate(given)]


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise ApiError(400, f"{where} is no object with role and content", where)
    for field in ("role", "content"):
        if field not in message:
            raise ApiError(400, f"{where} has no {field}", f"{where}.{field}")
    role, roles = message["role"], (*ROLES, SYSTEM)
    if role not in roles:
        raise ApiError(400, f"{where} has the role {_shown(role)}: roles are {', '.join(roles)}", f"{where}.role")
    if message.get("tool_calls"):
        raise ApiError(400, f"{where} calls tools, which the policy does not: send what was said as text", f"{where}.tool_calls")
    return {"role": "system" if role == SYSTEM else role, "content": _text(message["content"], f"{where}.content")}


def _text(content: Any, where: str) -> str:
    """Content, or its parts one below the other where all of them are text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise ApiError(400, f"{where}={_shown(content)} is no text: give a string, or a list of {{'type': 'text', 'text': ...}}", where)
    texts = []
    for part in content:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            kind = part.get("type") if isinstance(part, dict) else part
            raise ApiError(400, f"{where} has a part that is no text ({_shown(kind)}): the policy reads text only", where)
        texts.append(part["text"])
    return "\n".join(texts)


def _invalid(error: ValidationError) -> ApiError:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        near = get_close_matches(where, _Body.model_fields, 1)
        meant = f": did you mean {near[0]!r}?" if near else ""
        return ApiError(400, f"unknown parameter {_shown(where)}{meant}", where[:100], "unknown_parameter")
    if first["type"] == "missing":
        return ApiError(400, f"{where} is missing", where)
    wanted = first["msg"].partition(" or instance of ")[0]
    return ApiError(400, f"{where}={_shown(first['input'])}: {wanted}", where)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
