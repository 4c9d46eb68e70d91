"""What every part of the settings is."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


def names(value: Any) -> Any:
    """Names as the command line has them, with commas between, as a list."""
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


class Section(BaseModel):
    """A part of the settings: unknown keys are errors, numbers are finite, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
