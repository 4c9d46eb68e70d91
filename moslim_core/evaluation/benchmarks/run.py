"""One benchmark from its files to its result: its items are settled once, then each system answers them. (ours)"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from moslim_core import registry
from moslim_core.evaluation.benchmarks import sources
from moslim_core.evaluation.benchmarks.benchmark import Benchmark, Result, Verdict, ask, evaluate, less, limited, summed_up
from moslim_core.evaluation.benchmarks.overlap import overlaps
from moslim_core.judging.endpoint import Endpoint
from moslim_core.policy.generation import Answer
from moslim_core.preferences import Message, Targets


class Task(NamedTuple):
    """A benchmark and its items. `dropped`: reason -> items that are left out because training saw them."""

    benchmark: Benchmark[Any]
    items: list[Any]
    dropped: dict[str, int]


# A measure of benchmarks that say `fluency`.
SURPRISE = "surprise"
SURPRISE_MEANING = less("how much the answers' tokens surprise the starting model on average, in nats")

Replies = list[tuple[list[Message], Answer]]

# (what names this use of a system, conversations) -> (what it read for each, its answers, None where it had no room).
Respond = Callable[[str, list[list[Message]]], tuple[Sequence[list[Message]], Sequence[Answer | None]]]


class Run(BaseModel):
    """A result and what it was got under. `targets`: what every prompt requested, {} for nothing."""

    targets: dict[str, int]
    dropped: dict[str, int]
    result: Result


def tasks(
    names: Sequence[str],
    endpoint: Endpoint | None,
    data_dir: Path | None,
    cache: Path,
    trained: Sequence[list[Message]],
    near: float,
    limit: int,
) -> dict[str, Task]:
    """What each of the benchmarks asks, at most `limit` items. Raises UserError on missing or broken files."""
    made = {name: registry.benchmark[name](endpoint) for name in names}
    loaded = {name: benchmark.load(sources.folder(benchmark.reads, data_dir, cache)) for name, benchmark in made.items()}
    # Training prompts are many: they are read once for all.
    reasons = iter(overlaps([item for items in loaded.values() for item in items], trained, near))
    by_benchmark = {}
    for name, items in loaded.items():
        told = list(zip(items, reasons, strict=False))
        dropped = Counter(reason for _, reason in told if reason)
        by_benchmark[name] = Task(made[name], limited([item for item, reason in told if not reason], limit), dict(dropped))
    return by_benchmark


def run(task: Task, respond: Respond, targets: Targets, bootstrap: int, seed: int) -> tuple[Run, list[dict[str, Any]], Replies]:
    """(result, one record per item with the answers, what was read and answered in the first turn) of who answers by `respond`, under
    `targets`.

    Where the model had no room, that answer is empty. A judge that can't be reached raises UserError; what is answered is kept.
    """
    turn, replies = 0, Replies()

    def turn_by_turn(conversations: list[list[Message]]) -> Sequence[Answer | None]:
        nonlocal turn
        turn += 1
        read, given = respond(f"{task.benchmark.name}-{turn}", conversations)
        if turn == 1:
            replies.extend((c, answer or Answer("", 0, truncated=False)) for c, answer in zip(read, given, strict=True))
        return given

    answers = ask(task.items, turn_by_turn)
    result = evaluate(task.benchmark, task.items, answers, bootstrap, seed)
    records = [
        {"id": item.id, "group": item.group, "answers": [answer._asdict() for answer in given]}
        for item, given in zip(task.items, answers, strict=True)
    ]
    return Run(targets=dict(targets), dropped=task.dropped, result=result), records, replies


def add_surprise(run: Run, task: Task, surprises: Sequence[float | None], bootstrap: int, seed: int) -> None:
    """Adds the measure to a result: how much each item's answer surprises the starting model."""
    verdicts = [Verdict(item.id, item.group, SURPRISE, value) for item, value in zip(task.items, surprises, strict=True)]
    run.result.measures[SURPRISE] = summed_up(SURPRISE_MEANING, verdicts, bootstrap, seed)
