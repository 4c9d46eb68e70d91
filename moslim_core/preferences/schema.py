"""What can be requested: preferences, their ordered levels, and the schema of a run (docs/method.md, vocabulary)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import regex
from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator, model_validator

from moslim_core import registry
from moslim_core.errors import UserError
from moslim_core.settings_section import NameOf

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
# Labels stand inside the rendered instruction, whose punctuation the parser relies on.
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9 '-]*\Z")


# The measure of a regular expression of one's own.
PATTERN = "pattern"
# In place of a level, for a preference that is not asked for.
NOT_ASKED = "open"


class RuleAnnotator(BaseModel):
    """A deterministic measurement of an answer, cut into levels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    measure: Annotated[str, NameOf(registry.measure)] = Field(description="what is counted or computed")
    pattern: str | None = Field(default=None, description="of the measure pattern: a regular expression, whose matches are counted")
    thresholds: tuple[float, ...] = Field(
        description="K-1 rising bounds: a value up to the first is the lowest level (the highest if reverse)"
    )
    reverse: bool = Field(default=False, description="true where a high measurement is a low level")

    @model_validator(mode="after")
    def _has_a_pattern(self) -> RuleAnnotator:
        if (self.measure == PATTERN) != (self.pattern is not None):
            raise ValueError(f"measure: {PATTERN} and a `pattern` go together, and one was given without the other")
        try:
            regex.compile(self.pattern or "")
        except regex.error as error:
            raise ValueError(f"pattern {self.pattern!r} is no regular expression: {error}") from error
        return self

    @field_validator("thresholds")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(b <= a for a, b in itertools.pairwise(value)):
            raise ValueError("thresholds must be a rising list of numbers")
        return value


class Preference(BaseModel):
    """One dimension with K ordered levels 1..K, named from the lowest to the highest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="lower-case identifier, e.g. verbosity")
    levels: tuple[str, ...] = Field(description="level labels, lowest first; their number is K (at least 2)")
    description: str = Field(default="", description="what the preference means, for judges and documents")
    direction: Literal["higher_is_better", "lower_is_better"] = Field(
        default="higher_is_better", description="which end of the levels scores 1"
    )
    floor: int = Field(default=1, ge=1, description="lowest level that may be requested; K makes it a guard")
    annotator: RuleAnnotator | None = Field(default=None, description="rule that measures obtained levels exactly")

    @model_validator(mode="after")
    def _consistent(self) -> Preference:
        if not _NAME.match(self.name):
            raise ValueError(f"preference name {self.name!r} must be a lower-case identifier such as 'verbosity'")
        if len(self.levels) < 2:
            raise ValueError(f"preference {self.name!r} has {len(self.levels)} level: at least 2 are needed")
        for label in self.levels:
            if not _LABEL.match(label):
                raise ValueError(f"level label {label!r} of {self.name!r} may hold letters, digits, spaces, ' and - only")
        if self.floor > self.k:
            raise ValueError(f"floor {self.floor} of {self.name!r} is above its highest level {self.k}")
        if self.annotator and len(self.annotator.thresholds) != self.k - 1:
            raise ValueError(f"annotator of {self.name!r} needs {self.k - 1} thresholds for {self.k} levels")
        return self

    @property
    def k(self) -> int:
        """Number of levels."""
        return len(self.levels)

    @property
    def requestable(self) -> range:
        """Levels that may be requested: floor..K."""
        return range(self.floor, self.k + 1)

    @property
    def is_guard(self) -> bool:
        """One level may be requested: the preference is held, not steered."""
        return self.floor == self.k

    def label(self, level: int) -> str:
        """The words of a level, 1 to K."""
        return self.levels[level - 1]

    def score(self, level: float) -> float:
        """(level - 1) / (K - 1) in [0, 1], flipped where lower is better (docs/method.md, vocabulary)."""
        share = (level - 1) / (self.k - 1)
        return share if self.direction == "higher_is_better" else 1.0 - share


class Targets(Mapping[str, int]):
    """What one prompt asks for: {preference: level}. Unnamed preferences are unspecified. Immutable, hashable.

    `weights`: by how much a preference counts more or less in this request's reward than in all others'; 1 where nothing is said.
    """

    __slots__ = ("_levels", "_weights")

    def __init__(self, levels: Mapping[str, int] | None = None, weights: Mapping[str, float] | None = None) -> None:
        self._levels: dict[str, int] = dict(levels or {})
        self._weights: dict[str, float] = dict(weights or {})

    def weight(self, name: str) -> float:
        """How much a preference counts; 1 where no weights were given."""
        return self._weights.get(name, 1.0)

    def __getitem__(self, name: str) -> int:
        return self._levels[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._levels)

    def __len__(self) -> int:
        return len(self._levels)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Targets):
            return super().__eq__(other)
        return self._levels == other._levels and self._weights == other._weights

    def __hash__(self) -> int:
        return hash(frozenset(self._levels.items()))

    def __repr__(self) -> str:
        return "Targets(" + ", ".join(f"{n}={v}" for n, v in self._levels.items()) + ")"


class PreferenceSchema(RootModel[tuple[Preference, ...]]):
    """The ordered preferences of a run. It is data: no name of a preference stands in the code."""

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="after")
    def _unique(self) -> PreferenceSchema:
        if not self.root:
            raise ValueError("at least one preference is needed")
        names = self.names
        if len(set(names)) != len(names):
            raise ValueError(f"preference names must differ, got {', '.join(names)}")
        return self

    def __len__(self) -> int:
        return len(self.root)

    def __getitem__(self, name: str) -> Preference:
        for preference in self.root:
            if preference.name == name:
                return preference
        raise UserError(f"unknown preference {name!r}: the schema has {', '.join(self.names)}")

    @property
    def preferences(self) -> tuple[Preference, ...]:
        """In their order, which is that of heads and columns."""
        return self.root

    @property
    def names(self) -> tuple[str, ...]:
        """Of the preferences, in their order."""
        return tuple(p.name for p in self.root)

    def targets(self, levels: Mapping[str, int]) -> Targets:
        """Checked targets in the schema's order. Raises UserError for an unknown name or a level that can't be requested."""
        for name, level in levels.items():
            preference = self[name]
            if isinstance(level, bool) or not isinstance(level, int) or level not in preference.requestable:
                raise UserError(
                    f"{name}={level!r} can't be requested: levels are {preference.floor}..{preference.k} "
                    f"({', '.join(preference.levels[preference.floor - 1 :])})"
                )
        return Targets({name: levels[name] for name in self.names if name in levels})

    def parse_targets(self, text: str) -> Targets:
        """Targets from 'verbosity=1,warmth=3' (the command line's form); a level may also be given by its words, with or without the
        preference's name before it. Raises UserError."""
        levels: dict[str, int | None] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, level = self._level(part)
            if name in levels:
                raise UserError(f"{name} is asked for twice: give it one level")
            levels[name] = level
        return self.targets({name: level for name, level in levels.items() if level is not None})

    def _level(self, part: str) -> tuple[str, int | None]:
        """(preference, level) of 'warmth=3', 'warmth=warm' or 'warm'; no level of 'warmth=open'."""
        said, equals, value = (piece.strip() for piece in part.partition("="))
        # Not `isdigit`: superscripts are digits that no number is read from.
        if equals and re.fullmatch(r"[0-9]{1,9}", value):
            return said, int(value)
        among = [self[said]] if equals else self.preferences
        words = " ".join((value if equals else said).lower().split())
        matches = [(p.name, level) for p in among for level in range(1, p.k + 1) if p.label(level).lower() == words]
        if equals and words == NOT_ASKED and not matches:
            return said, None
        if len(matches) > 1:
            raise UserError(f"{part!r} is a level of {' and of '.join(name for name, _ in matches)}: write NAME={words}")
        if not matches:
            raise UserError(
                f"can't read {part!r}: write NAME=LEVEL[,NAME=LEVEL...], e.g. {self.names[0]}=1, or a level's words, "
                f"e.g. {self.preferences[0].levels[-1]!r}"
            )
        return matches[0]
