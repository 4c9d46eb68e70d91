"""What was typed after --set KEY=, or in a profile, read as the setting's type says: text stays as it was typed, and nothing is guessed
from its look.

| the setting is | what is typed |
|---|---|
| text, one of some words | itself |
| a path | itself, `~` being home |
| a number | a number: 40, 1.5e-4 |
| true or false | true, false |
| a list | a,b or [a, b] |
| a mapping, a whole section | {key: value, ...}, as JSON or in YAML's short form |

Where a setting may be empty, `null` empties it.
"""

from __future__ import annotations

import json
import math
import os
import re
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, RootModel

from moslim_core.errors import UserError
from moslim_core.json_text import is_text
from moslim_core.yaml_text import TextLoader, unique

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\Z")
_WHOLE = re.compile(r"[+-]?[0-9]+\Z")
# Python refuses to read more, and no setting has them.
MOST_DIGITS = 300
# Settings that are text, as they may name what is no path, but take one too.
PLACES = ("model.base", "reward.backbone", "evaluation.policy", "evaluation.judge_backbone")


def read(model: type[BaseModel], key: str, text: str) -> Any:
    """The value of the text typed for the setting `key` of a model; what is no setting stays text. Raises UserError."""
    if not is_text(text):
        raise UserError(f"--set {key}: the value is not UTF-8 text.\nName files and words in UTF-8.")
    try:
        return _converted(text, _type_of(model, key.split(".")), key)
    except _NoValue as error:
        raise UserError(f"--set {error}") from error


def typed(model: type[BaseModel], values: dict[str, Any], where: str) -> dict[str, Any]:
    """Settings that were read from a file as texts, each as its type says. Raises UserError, naming `where` and the key."""
    try:
        return {key: _shaped(value, _options(_inside(model, key)), key) for key, value in values.items()}
    except _NoValue as error:
        raise UserError(f"{where}: {error}") from error


class _NoValue(ValueError):
    """key=text, and what is wrong with it; on a second line what to do."""


def _type_of(model: Any, keys: Iterable[str]) -> Any:
    """The type of a setting; Any for what is none."""
    kind: Any = model
    for key in keys:
        kind = _inside(kind, key)
    return kind


def _inside(kind: Any, key: str) -> Any:
    """The type of what a section or a mapping holds under a key."""
    for option in _options(kind):
        if isinstance(option, type) and issubclass(option, BaseModel) and key in option.model_fields:
            return option.model_fields[key].annotation
        if get_origin(option) is dict:
            return get_args(option)[1]
    return Any


def _options(kind: Any) -> list[Any]:
    """The types that a type allows; of one that is one alone, itself."""
    if get_origin(kind) is Annotated:
        return _options(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [option for part in get_args(kind) for option in _options(part)]
    if isinstance(kind, type) and issubclass(kind, RootModel):
        return _options(kind.model_fields["root"].annotation)
    return [kind]


def _converted(text: str, kind: Any, key: str) -> Any:
    options = _options(kind)
    if text == "null" and type(None) in options:
        return None
    words = [word for option in options if get_origin(option) is Literal for word in get_args(option)]
    if str in options or Any in options or text in words:
        return _home(text) if key in PLACES else text
    if Path in options:
        if not text:
            raise _NoValue(f"{key}=: a path is needed.\nGive one{', or null' if type(None) in options else ''}.")
        return _home(text)
    if bool in options:
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    if int in options or float in options:
        return _number(text, whole=float not in options, key=key)
    if words:
        return text
    return _structured(text, options, key)


def _home(text: str) -> str:
    """A path with `~` made the home directory, where there is one."""
    return os.path.expanduser(text)


def _number(text: str, whole: bool, key: str) -> Any:
    """A number; other text as it is, for the setting's own error. Raises _NoValue for what only Python takes for one (1_0, inf)."""
    typed = text.strip()
    if (_WHOLE if whole else _NUMBER).match(typed) and len(typed) <= MOST_DIGITS:
        value = int(typed) if _WHOLE.match(typed) else float(typed)
        if math.isfinite(value):
            return value
    try:
        float(typed)
    except ValueError:
        return text
    needed = "a whole number" if whole else "a number"
    raise _NoValue(f"{key}={text[:60]}: {needed} is needed.\nWrite digits, e.g. {'40' if whole else '40 or 1.5e-4'}.")


def _structured(text: str, options: list[Any], key: str) -> Any:
    """A list or a mapping. A list may be typed with commas alone."""
    if not text.lstrip().startswith(("[", "{")):
        items = any(get_origin(option) in (tuple, list) for option in options)
        return _shaped([part.strip() for part in text.split(",")] if text.strip() else [], options, key) if items else text
    try:
        return _shaped(_parsed(text), options, key)
    except _NoValue:
        raise
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise _NoValue(f"{key}={text[:60]}: the value is neither JSON nor YAML.\nQuote what holds commas or brackets.") from error


def _parsed(text: str) -> Any:
    """Lists and mappings of JSON, or of YAML's short form, with every scalar but null and JSON's true and false as the text that it is."""
    try:
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=unique)
    except json.JSONDecodeError:
        return yaml.load(text, TextLoader)


def _shaped(value: Any, options: list[Any], key: str) -> Any:
    """A parsed value with its texts read by the types of what it holds."""
    if isinstance(value, dict):
        kind: Any = Union[tuple(options)] if options else Any  # noqa: UP007
        return {name: _shaped(of, _options(_inside(kind, name)), f"{key}.{name}") for name, of in value.items()}
    if isinstance(value, list):
        item = next((get_args(option)[0] for option in options if get_origin(option) in (tuple, list)), Any)
        return [_shaped(of, _options(item), f"{key}.{place}") for place, of in enumerate(value)]
    if not isinstance(value, str) or value.lstrip().startswith(("[", "{")):
        return value
    return _converted(value, Union[tuple(options)], key)  # noqa: UP007
