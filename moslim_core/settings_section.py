"""What every part of the settings is, and how one is changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticKnownError, core_schema

from moslim_core.json_text import is_text
from moslim_core.registry import Registry

M = TypeVar("M", bound=BaseModel)

# numpy takes 32 bits, and the judge's seed is the reward model's next one.
LARGEST_SEED = 2**32 - 2


def names(value: Any) -> Any:
    """Names as the command line has them, with commas between, as a list."""
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


class NameOf:
    """For Annotated: a name in a registry, as that is when a value is checked or a form is made."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def _known(self, value: Any) -> Any:
        if value not in (names := self.registry.names):
            *most, last = map(repr, names)
            raise PydanticKnownError("literal_error", {"expected": f"{', '.join(most)} or {last}"})
        return value

    def __get_pydantic_core_schema__(self, *_: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._known)

    def __get_pydantic_json_schema__(self, *_: Any) -> dict[str, Any]:
        return {"enum": self.registry.names, "type": "string"}


def registries(kind: Any) -> Iterator[Registry]:
    """The registries whose names stand in values of a type."""
    if isinstance(kind, NameOf):
        yield kind.registry
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        for field in kind.model_fields.values():
            yield from (registry for part in (field.annotation, *field.metadata) for registry in registries(part))
    else:
        yield from (registry for part in get_args(kind) for registry in registries(part))


class Section(BaseModel):
    """A part of the settings: unknown keys are errors, numbers are finite, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def not_text(value: Any, key: str = "") -> str | None:
    """The key of the first text below `value` (settings, plain or made) that no file can hold, as half a character is in it; else None."""
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, str | Path):
        return None if is_text(str(value)) else key
    if isinstance(value, BaseModel):
        inner = value
    elif isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, list | tuple):
        inner = enumerate(value)
    for name, of in inner:
        if isinstance(name, str) and not is_text(name):
            return key
        if (bad_key := not_text(of, f"{key}.{name}" if key else str(name))) is not None:
            return bad_key
    return None


def changed(model: M, /, **values: Any) -> M:
    """A copy with other values, checked as a whole: pydantic's own `model_copy` takes whatever it is given.

    Raises TypeError for a name that the model does not have, ValidationError where the values do not fit.
    """
    fields = type(model).model_fields
    unknown = values.keys() - fields.keys()
    if unknown:
        raise TypeError(f"{type(model).__name__} has no {', '.join(sorted(unknown))}")
    return type(model).model_validate({**{name: getattr(model, name) for name in fields}, **values})
