"""What every part of the settings is, and how one is changed."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic_core import core_schema

from moslim_core.data.json_text import is_text

M = TypeVar("M", bound=BaseModel)


def names(value: Any) -> Any:
    """Names as the command line has them, with commas between, as a list."""
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


class ModuleOf:
    """For Annotated: the name of a module of `package`, which is listed and not imported, or one of `more`."""

    def __init__(self, package: str, *more: str) -> None:
        spec = find_spec(package)
        self.names = [*more, *sorted(module.name for module in pkgutil.iter_modules(spec.submodule_search_locations if spec else []))]

    def __get_pydantic_core_schema__(self, *_: Any) -> core_schema.CoreSchema:
        return core_schema.literal_schema(self.names)


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
        if (found := not_text(of, f"{key}.{name}" if key else str(name))) is not None:
            return found
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
