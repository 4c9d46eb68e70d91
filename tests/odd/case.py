"""What one odd input is: how it is made and used, and what must come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """`act` gets an empty folder, makes the input in it and uses it as the product does; what it writes goes to `folder / "output"`.

    `refused`: None where the input works, and `act` asserts what must come out; else words that the refusal must contain.
    """

    name: str
    act: Callable[[Path], object]
    refused: str | None = None
