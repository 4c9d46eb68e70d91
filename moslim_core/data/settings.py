"""The sections about rated answers: where they come from, how they are read, and who says what they leave open."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from moslim_core import registry
from moslim_core.judging.settings import JudgeSettings
from moslim_core.settings_section import NameOf, Section, names


class LabelColumn(Section):
    """Where one preference's rating stands in the rated rows, and how ratings become levels (one way at most)."""

    column: str | None = Field(default=None, description="column name; default: what the source has for it, else the preference's name")
    levels: dict[str, int | None] | None = Field(
        default=None, description="rating (written as text) -> level, null to mask it; default: ratings are levels 1..K"
    )
    thresholds: tuple[float, ...] | None = Field(
        default=None, description="K-1 rising numbers: a rating up to the first is level 1, one above the last is level K"
    )
    quantiles: bool = Field(default=False, description="true: thresholds that cut the training ratings into K levels as even as can be")

    @model_validator(mode="after")
    def _one_way(self) -> LabelColumn:
        if len(self.ways) > 1:
            raise ValueError(f"{' and '.join(self.ways)} exclude one another: give one")
        if self.thresholds is not None and not all(a < b for a, b in itertools.pairwise(self.thresholds)):
            raise ValueError("thresholds must be a rising list of numbers")
        return self

    @property
    def ways(self) -> list[str]:
        """The settings given that make ratings levels: one, or none where they are levels already."""
        return [name for name in ("levels", "thresholds", "quantiles") if getattr(self, name) not in (None, False)]


class ColumnSettings(Section):
    """How rated rows are read (prompt, response and source: those of your own files)."""

    prompt: str = Field(default="prompt", description="column of the user's prompt")
    response: str = Field(default="response", description="column of the answer")
    messages: str | None = Field(
        default=None,
        description="column of a conversation whose last turn is the answer; default: messages or conversations, where rows have one",
    )
    pairs: str | None = Field(default=None, description="preference that the choices of rows with chosen and rejected are about")
    source: str | None = Field(default="source", description="column naming the row's source, if there is one")
    labels: dict[str, LabelColumn] = Field(
        default_factory=dict,
        description="preference (or source.preference, for one source of several) -> its column, and levels, thresholds or quantiles",
    )


class DataSettings(Section):
    """Rated answers: what trains the reward model."""

    source: tuple[Annotated[str, NameOf(registry.source)], ...] = Field(
        default=("starter",), min_length=1, description="one name or several; a set of the hub is read from data.path where that is given"
    )
    path: Path | None = Field(
        default=None,
        description="file, or folder with train, and optionally val and test, files; of a hub source: folder with its files; "
        "of several sources: folder with one folder (or file) named like each",
    )
    columns: ColumnSettings = Field(default_factory=ColumnSettings, description="column and level mapping")
    bad_rows: Literal["stop", "drop"] = Field(
        default="stop",
        description="what becomes of a row or prompt that can't be read: stop ends the run, drop leaves it out and counts it in the card",
    )
    limit: int | None = Field(default=None, ge=20, description="use at most this many rated rows (chosen by hash)")
    near_duplicates: float = Field(
        default=0.8, ge=0.5, le=1, description="prompts whose word triples have this Jaccard similarity share a split; 1: equal ones only"
    )
    validation_fraction: float = Field(default=0.08, gt=0, lt=0.5, description="share of prompts held out for calibration")
    test_fraction: float = Field(default=0.10, gt=0, lt=0.5, description="share of prompts held out for reward metrics and evaluation")

    _split = field_validator("source", mode="before")(names)

    @property
    def where(self) -> str:
        """Where the rows come from, as errors name it."""
        return str(self.path or ", ".join(self.source))


class AnnotationSettings(Section):
    """Labels for what the rated rows leave unlabelled."""

    fill: tuple[Literal["rules", "reward_model", "judge"], ...] = Field(
        default=(), description="who fills in missing labels, in this order: the schema's rules, a reward model, a language model"
    )
    reward_model: Path | None = Field(default=None, description="folder of the reward model that fills in labels")
    min_probability: float = Field(default=0.0, ge=0, le=1, description="the reward model says no level that is less probable than this")
    judge: JudgeSettings = Field(default_factory=JudgeSettings, description="the language model that fills in labels")
    agreement_sample: int = Field(default=200, ge=0, description="rows on which those who say levels are compared; 0: none")

    _split = field_validator("fill", mode="before")(names)

    @model_validator(mode="after")
    def _complete(self) -> AnnotationSettings:
        if len(set(self.fill)) < len(self.fill):
            raise ValueError("fill names an annotator twice")
        for name, key, given in (("reward_model", "reward_model", self.reward_model), ("judge", "judge.model", self.judge.model)):
            if name in self.fill and not given:
                raise ValueError(f"fill names {name}: give annotation.{key} too")
        return self
