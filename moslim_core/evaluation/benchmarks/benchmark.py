"""What every benchmark is: items that ask one thing after the other, and a judge of what was answered. (ours)

No model runs here: `ask` hands conversations to a function that states preferences in them and answers. A measure that can't be
judged is not run, an answer that can't be judged is missing: both are told, and neither is ever a score.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from moslim_core.data.rows import unit_hash
from moslim_core.evaluation.benchmarks.sources import File
from moslim_core.judging.endpoint import Endpoint
from moslim_core.policy.generation import Answer
from moslim_core.preferences import Message
from moslim_core.statistics.bootstrap import Interval, interval, resamples

NO_JUDGE = "needs a language model as judge, and none is given"


class Item(Protocol):
    """A prompt or conversation of a benchmark. `id` is unique in its benchmark; `group` is its category, domain, level or type."""

    @property
    def id(self) -> str: ...

    @property
    def group(self) -> str: ...

    def conversation(self, replies: Sequence[str]) -> list[Message] | None:
        """What to ask after these replies, one to each conversation before; None when nothing is left to ask."""


AnyItem = TypeVar("AnyItem", bound=Item)


@dataclass(frozen=True)
class Chat:
    """An item whose turns are asked one after the other, each after the model's own replies to those before it."""

    id: str
    group: str
    turns: tuple[str, ...]

    def conversation(self, replies: Sequence[str]) -> list[Message] | None:
        if len(replies) == len(self.turns):
            return None
        messages: list[Message] = []
        for turn, reply in zip(self.turns, replies, strict=False):
            messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": reply}]
        return [*messages, {"role": "user", "content": self.turns[len(replies)]}]


class Verdict(NamedTuple):
    """A judge's verdict on one item by one measure; value None: it could not be told."""

    item: str
    group: str
    measure: str
    value: float | None


class Judged(NamedTuple):
    """`not_run`: measure -> why; `notes`: counts and figures that a reader needs beside the measures."""

    verdicts: list[Verdict]
    not_run: dict[str, str]
    notes: dict[str, float]


class Meaning(BaseModel):
    """What a measure is, and which way is better; None: neither."""

    model_config = ConfigDict(frozen=True)

    about: str
    better: Literal["more", "less"] | None = None

    def __str__(self) -> str:
        return f"{self.about}; {self.better} is better" if self.better else self.about


def more(about: str) -> Meaning:
    """Of a measure of which more is better."""
    return Meaning(about=about, better="more")


def less(about: str) -> Meaning:
    """Of a measure of which less is better."""
    return Meaning(about=about, better="less")


class Benchmark(ABC, Generic[AnyItem]):
    """Made with the language model that judges, None where there is none. `files` it reads, and `judged_files` where there is one."""

    name: str
    measures: dict[str, Meaning]
    files: tuple[File, ...] = ()
    judged_files: tuple[File, ...] = ()
    # Whether it is also measured how much the answers surprise the starting model; of items that ask one thing.
    fluency = False

    def __init__(self, endpoint: Endpoint | None) -> None:
        self.endpoint = endpoint

    @property
    def reads(self) -> tuple[File, ...]:
        """What `load` reads, below the folder it is given."""
        return (*self.files, *(self.judged_files if self.endpoint else ()))

    @abstractmethod
    def load(self, folder: Path) -> list[AnyItem]:
        """The items that can be judged, all of them. Raises UserError on a missing or broken file, naming it."""

    @abstractmethod
    def judge(self, items: Sequence[AnyItem], answers: Sequence[Sequence[Answer]]) -> Judged:
        """Of items and what `ask` got for them. Raises UserError where asking a language model on is no use."""


class Score(BaseModel):
    """The mean over items with its 95 % bounds, over `judged` verdicts; `missing` had no value."""

    mean: Interval
    judged: int
    missing: int


class Measure(BaseModel):
    """One figure of a benchmark: what it means, its value over all items, and over groups of them."""

    meaning: Meaning
    overall: Score
    groups: dict[str, Score]


class Result(BaseModel):
    """One benchmark of one system. `truncated`: share of answers that ran into the limit; `notes`: see `Judged`."""

    name: str
    items: int
    measures: dict[str, Measure]
    not_run: dict[str, str]
    notes: dict[str, float]
    truncated: float


def limited(items: Sequence[AnyItem], limit: int | None) -> list[AnyItem]:
    """At most `limit` items, shared out evenly among groups and chosen by the hash of their ids; in the order given."""
    places: Counter[str] = Counter()
    ranked: list[tuple[int, str]] = []
    for item in sorted(items, key=lambda item: unit_hash(item.id, "benchmark")):
        ranked.append((places[item.group], item.id))
        places[item.group] += 1
    # The sort is stable: among items of one place the hash decides.
    chosen = {name for _, name in sorted(ranked, key=lambda rank: rank[0])[:limit]}
    return [item for item in items if item.id in chosen]


def ask(items: Sequence[AnyItem], respond: Callable[[list[list[Message]]], Sequence[Answer | None]]) -> list[list[Answer]]:
    """The answers to each item, in the order of its conversations. All items' first conversations are answered at once, and so on.

    `respond` gives one answer per conversation; None, where the model has no room for it, ends the item before its end.
    """
    answers: list[list[Answer]] = [[] for _ in items]
    waiting = list(range(len(items)))
    while pending := [(n, c) for n in waiting if (c := items[n].conversation([a.text for a in answers[n]]))]:
        waiting = []
        for (number, _), answer in zip(pending, respond([conversation for _, conversation in pending]), strict=True):
            if answer is not None:
                answers[number].append(answer)
                waiting.append(number)
    return answers


def finished(item: Item, answers: Sequence[Answer]) -> bool:
    """Whether no conversation of the item is left to answer."""
    return item.conversation([answer.text for answer in answers]) is None


def evaluate(
    benchmark: Benchmark[AnyItem], items: Sequence[AnyItem], answers: Sequence[Sequence[Answer]], bootstrap: int, seed: int
) -> Result:
    """Judge, and sum up with intervals by `bootstrap` resamples over items."""
    judged = benchmark.judge(items, answers)
    run = {name: meaning for name, meaning in benchmark.measures.items() if name not in judged.not_run}
    given = [answer.truncated for of_item in answers for answer in of_item]
    return Result(
        name=benchmark.name,
        items=len(items),
        measures={
            name: summed_up(meaning, [v for v in judged.verdicts if v.measure == name], bootstrap, seed) for name, meaning in run.items()
        },
        not_run=judged.not_run,
        notes=judged.notes,
        truncated=sum(given) / len(given) if given else 0.0,
    )


def summed_up(meaning: Meaning, verdicts: Sequence[Verdict], bootstrap: int, seed: int) -> Measure:
    """The verdicts by one measure, all together and by group, with intervals by `bootstrap` resamples over items."""
    groups = dict.fromkeys(v.group for v in verdicts)
    return Measure(
        meaning=meaning,
        overall=_score(verdicts, bootstrap, seed),
        groups={group: _score([v for v in verdicts if v.group == group], bootstrap, seed) for group in groups},
    )


def _score(verdicts: Sequence[Verdict], bootstrap: int, seed: int) -> Score:
    told = [(v.item, v.value) for v in verdicts if v.value is not None]
    items, values = np.array([item for item, _ in told]), np.array([value for _, value in told], dtype=float)
    mean = interval(lambda column: float(column.mean()) if len(column) else float("nan"), (values,), resamples(items, bootstrap, seed))
    return Score(mean=mean, judged=len(told), missing=len(verdicts) - len(told))
