"""Labels for what rated rows leave unlabelled: by rules, a reward model, a language model, and how far these agree.

A given label is never overwritten. What nobody can tell stays masked. Agreement is measured on a sample of the rows, drawn by hash
from all of them, where every annotator also says levels that were given (ours).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
from pydantic import BaseModel

from moslim_core import models
from moslim_core.data.annotators import annotate, annotators_of
from moslim_core.data.rows import Row, plain_text, prompt_key, unit_hash
from moslim_core.data.settings import AnnotationSettings
from moslim_core.errors import UserError
from moslim_core.judging.annotator import JudgeAnnotator
from moslim_core.judging.endpoint import Endpoint, Usage
from moslim_core.preferences import PreferenceSchema
from moslim_core.statistics.bootstrap import finite

if TYPE_CHECKING:
    from moslim_core.reward.scorer import RewardScorer

GIVEN = "given"
# Rows that are held at once.
BATCH = 256

# {preference: level, or None where the annotator can't tell}; what is not in it got no verdict that could be read.
Verdict = dict[str, int | None]


class Annotator(Protocol):
    """Says levels of answers, on `preferences`. `verdicts` gives one Verdict per row, for the names wanted of it."""

    name: str
    preferences: frozenset[str]

    def verdicts(self, rows: Sequence[Row], wanted: Sequence[Sequence[str]]) -> list[Verdict]:
        """Of n rows: {preference: level or scores} each, without what could not be told."""


class Filled(BaseModel):
    """What one annotator did for one preference: asked = filled + undecided + unparsable, in labels."""

    annotator: str
    preference: str
    asked: int = 0
    filled: int = 0
    undecided: int = 0
    unparsable: int = 0


class Agreement(BaseModel):
    """Of two who said levels of the same n answers; `kappa` (quadratic weights) is null where both only ever said one level."""

    preference: str
    first: str
    second: str
    n: int
    exact: float
    kappa: float | None


class AnnotationRecord(BaseModel):
    """For the data card. `usage` is what the language model's answers cost this time: those stored by earlier runs are free."""

    filled: list[Filled]
    agreement: list[Agreement]
    usage: Usage | None


class RuleAnnotators:
    """The schema's rules, for the preferences that have one."""

    name = "rules"

    def __init__(self, schema: PreferenceSchema) -> None:
        self.rules = annotators_of(schema)
        self.preferences = frozenset(self.rules)

    def verdicts(self, rows: Sequence[Row], wanted: Sequence[Sequence[str]]) -> list[Verdict]:
        return [{name: annotate(row.response, self.rules[name]) for name in names} for row, names in zip(rows, wanted, strict=True)]


class RewardModelAnnotator:
    """The most probable level of a reward model, where its calibrated probability is at least `min_probability`."""

    name = "reward_model"

    def __init__(self, scorer: RewardScorer, schema: PreferenceSchema, min_probability: float) -> None:
        self.scorer, self.min_probability = scorer, min_probability
        theirs = {p.name: p.k for p in scorer.schema.preferences}
        for p in schema.preferences:
            if theirs.get(p.name, p.k) != p.k:
                raise UserError(
                    f"annotation.reward_model has {theirs[p.name]} levels of {p.name}, the preferences have {p.k}.\n"
                    "Give a reward model of the same levels."
                )
        self.preferences = frozenset(theirs) & frozenset(schema.names)

    def verdicts(self, rows: Sequence[Row], wanted: Sequence[Sequence[str]]) -> list[Verdict]:
        probabilities = self.scorer([plain_text(row.prompt) for row in rows], [row.response for row in rows])
        return [{name: self._level(probabilities[name][i]) for name in names} for i, names in enumerate(wanted)]

    def _level(self, probabilities: np.ndarray) -> int | None:
        best = int(probabilities.argmax())
        return best + 1 if probabilities[best] >= self.min_probability else None


class Annotation:
    """Fills in labels as rows pass by; `record` tells what was done, in full once all have passed."""

    def __init__(self, annotators: Sequence[Annotator], schema: PreferenceSchema, agreement_sample: int) -> None:
        self.annotators, self.schema, self.agreement_sample = annotators, schema, agreement_sample
        self._filled = {
            (a.name, name): Filled(annotator=a.name, preference=name) for a in annotators for name in schema.names if name in a.preferences
        }
        self._agreement: list[Agreement] = []
        # A heap of (minus the row's hash, its number, the row): the rows with the smallest hashes so far.
        self._sample: list[tuple[float, int, Row]] = []

    @classmethod
    def of(cls, chosen: AnnotationSettings, schema: PreferenceSchema, device: models.DeviceName, answers_file: Path) -> Annotation:
        """By the settings. `device`: a reward model's. `answers_file`: where a language model's answers stay. Raises UserError on an
        unfit reward model."""
        annotators: list[Annotator] = []
        for name in chosen.fill:
            if name == "rules":
                annotators.append(RuleAnnotators(schema))
            elif name == "reward_model":
                from moslim_core.reward.scorer import RewardScorer

                scorer = RewardScorer.load(cast(Path, chosen.reward_model), models.pick_device(device))
                annotators.append(RewardModelAnnotator(scorer, schema, chosen.min_probability))
            else:
                annotators.append(JudgeAnnotator(schema, Endpoint(chosen.judge, answers_file)))
        return cls(annotators, schema, chosen.agreement_sample)

    def fill(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The same rows in the same order, with labels added by the first annotator that can tell. Empty answers stay as they are."""
        if not self.annotators:
            yield from rows
            return
        left, number = iter(rows), 0
        while batch := list(islice(left, BATCH)):
            for row in batch:
                number += 1
                self._draw(row, number)
            yield from self._fill(batch)
        self._compare()

    def record(self) -> AnnotationRecord:
        usage = next((a.endpoint.usage for a in self.annotators if isinstance(a, JudgeAnnotator)), None)
        return AnnotationRecord(filled=list(self._filled.values()), agreement=self._agreement, usage=usage)

    def _fill(self, batch: Sequence[Row]) -> list[Row]:
        labels = [dict(row.labels) for row in batch]
        for annotator in self.annotators:
            wanted = [
                [name for name in self.schema.names if name in annotator.preferences and name not in known and _may_be_labelled(row)]
                for row, known in zip(batch, labels, strict=True)
            ]
            for names, known, verdict in zip(wanted, labels, _ask(annotator, batch, wanted), strict=True):
                for name in names:
                    count, level = self._filled[annotator.name, name], verdict.get(name)
                    count.asked += 1
                    if level is not None:
                        known[name] = level
                        count.filled += 1
                    elif name in verdict:
                        count.undecided += 1
                    else:
                        count.unparsable += 1
        return [row._replace(labels=known) for row, known in zip(batch, labels, strict=True)]

    def _comparable(self, row: Row) -> list[str]:
        """The preferences on which at least two would say a level of this row, the given label among them."""
        return [n for n in self.schema.names if (n in row.labels) + sum(n in a.preferences for a in self.annotators) > 1]

    def _draw(self, row: Row, number: int) -> None:
        if self.agreement_sample and _may_be_labelled(row) and self._comparable(row):
            heapq.heappush(self._sample, (-unit_hash(prompt_key(row.prompt) + row.response, "agreement"), number, row))
            if len(self._sample) > self.agreement_sample:
                heapq.heappop(self._sample)

    def _compare(self) -> None:
        rows = [row for _, _, row in sorted(self._sample, reverse=True)]
        said: dict[str, list[Verdict]] = {GIVEN: [dict(row.labels) for row in rows]}
        for annotator in self.annotators:
            wanted = [[name for name in self._comparable(row) if name in annotator.preferences] for row in rows]
            said[annotator.name] = _ask(annotator, rows, wanted)
        for preference in self.schema.preferences:
            for first, second in combinations(said, 2):
                both = [(one.get(preference.name), two.get(preference.name)) for one, two in zip(said[first], said[second], strict=True)]
                levels = np.array([pair for pair in both if None not in pair], dtype=int).reshape(-1, 2)
                if len(levels):
                    self._agreement.append(agreement(preference.name, first, second, levels))


def _ask(annotator: Annotator, rows: Sequence[Row], wanted: Sequence[Sequence[str]]) -> list[Verdict]:
    """A verdict per row; an annotator sees only the rows of which something is wanted."""
    places = [i for i, names in enumerate(wanted) if names]
    verdicts: list[Verdict] = [{} for _ in rows]
    for i, verdict in zip(places, annotator.verdicts([rows[i] for i in places], [wanted[i] for i in places]), strict=True):
        verdicts[i] = verdict
    return verdicts


def agreement(preference: str, first: str, second: str, levels: np.ndarray) -> Agreement:
    """Of `levels` (n, 2), n >= 1: exact agreement and Cohen's kappa with quadratic weights (Cohen 1968)."""
    from moslim_core.statistics.agreement import exact, quadratic_kappa

    one, two = levels.T
    kappa = finite(quadratic_kappa(one, two))
    return Agreement(preference=preference, first=first, second=second, n=len(levels), exact=exact(one, two), kappa=kappa)


def _may_be_labelled(row: Row) -> bool:
    """Of a choice between two answers each is a row of its own too."""
    return bool(row.response.strip()) and not row.worse
