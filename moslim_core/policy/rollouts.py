"""What a step learns from: answers under requests of their prompts, what each earned, and how probable it is. (ours)

A row of a batch is an answer under a request. The rows that are compared with one another make a table, answers by requests, and all of
a table is in one process. A drawn answer meets the request that it was drawn under; with relabelling, every request of its prompt. A
rated answer of the data, drawn under none, meets them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moslim_core.policy.conditioning import Example
from moslim_core.training.distributed import total

# What has not been made yet.
NOTHING = torch.empty(0)


class Rollout(NamedTuple):
    """Token ids of an answer, the example (by place) whose request it was drawn under, None for a rated answer, and its prompt's family."""

    ids: list[int]
    request: int | None
    family: int


class Table(NamedTuple):
    """`answers` x `requests` rows from row `first` on, answer by answer."""

    first: int
    answers: int
    requests: int


@dataclass(frozen=True)
class Pairs:
    """Answers under requests: which rollout and which example each of the r rows is about.

    `own` (r,): whether the answer was drawn under the row's request. `home` (r,): the row where the answer meets the request that it was
    drawn under; a rated answer's rows are their own.
    """

    rollouts: Tensor
    requests: Tensor
    own: Tensor
    home: Tensor
    tables: tuple[Table, ...]

    def of(self, rows: Tensor, tables: Sequence[Table]) -> Pairs:
        """The rows (k,), rising, which make `tables`; an answer's home is among them."""
        home = torch.searchsorted(rows, self.home[rows])
        return Pairs(self.rollouts[rows], self.requests[rows], self.own[rows], home, tuple(tables))

    def by_table(self, function: Callable[..., Tensor], *values: Tensor) -> Tensor:
        """`function` of each table of `values`, each (r, ...) taken as (answers, requests, ...); (r, ...)."""
        results = []
        for first, answers, requests in self.tables:
            rows = slice(first, first + answers * requests)
            results.append(function(*(v[rows].unflatten(0, (answers, requests)) for v in values)).flatten(0, 1))
        return torch.cat(results)


def pair(examples: Sequence[Example], rollouts: Sequence[Rollout], relabel: bool) -> Pairs:
    """The rows of a step: `examples` of whole families, and the rollouts for them, both in the order of their families.

    Raises ValueError where a family has no two answers to compare.
    """
    rows: list[tuple[int, int, bool]] = []
    tables: list[Table] = []
    numbered = list(enumerate(examples))
    for family, members in groupby(numbered, key=lambda item: item[1].family):
        requests = [number for number, _ in members]
        answers = [(number, rollout) for number, rollout in enumerate(rollouts) if rollout.family == family]
        for table_requests in [requests] if relabel else [[request] for request in requests]:
            compared = [(n, r) for n, r in answers if relabel or r.request in (None, table_requests[0])]
            if len(compared) < 2:
                raise ValueError(f"family {family} has {len(compared)} answers, and an answer alone says nothing")
            tables.append(Table(len(rows), len(compared), len(table_requests)))
            rows += [(n, request, rollout.request == request) for n, rollout in compared for request in table_requests]
    rollout_of, request_of, own = (torch.tensor(column) for column in zip(*rows, strict=True))
    homes = {int(rollout_of[row]): row for row in own.nonzero().flatten().tolist()}
    home = torch.tensor([homes.get(int(n), row) for row, n in enumerate(rollout_of)])
    return Pairs(rollout_of, request_of, own, home, tuple(tables))


@dataclass(frozen=True)
class RolloutBatch:
    """The r rows of a process in a step. `ids`, `mask` (r, c): answers, padded on the right; `prompts`: token ids, with the request.

    `rewards` (r,), or (r, c) where tokens are credited by themselves; `utilities` (r, m): the standardised utilities that the rewards are
    made of, NaN where a preference is not requested. `old`, `reference` (r, c): log-probabilities in nats under the policy that the
    step begins with, and under the starting policy; `values` (r, c): the critic's. `weight` (r,): how much a row counts (relabelling.py).
    `advantages` and `returns`: what the optimiser makes of these. `rows` and `tokens` are those of the whole step, in all processes.
    """

    pairs: Pairs
    prompts: list[list[int]]
    ids: Tensor
    mask: Tensor
    rewards: Tensor
    utilities: Tensor
    old: Tensor
    reference: Tensor | None
    values: Tensor | None
    weight: Tensor
    rows: int
    tokens: int
    advantages: Tensor = NOTHING
    returns: Tensor = NOTHING

    @property
    def divergence(self) -> Tensor:
        """log pi - log pi_ref (r, c) at the step's beginning, of each answer under the request that it was drawn under; 0 elsewhere."""
        if self.reference is None:
            return torch.zeros_like(self.old)
        return ((self.old - self.reference) * self.mask)[self.pairs.home]

    def of(self, tables: Sequence[Table]) -> RolloutBatch:
        """The rows of neighbouring tables. `rows` and `tokens` stay those of the whole step."""
        start, last = tables[0].first, tables[-1]
        rows = slice(start, last.first + last.answers * last.requests)
        pairs = self.pairs.of(torch.arange(rows.start, rows.stop), tuple(table._replace(first=table.first - start) for table in tables))
        tensors: dict[str, Any] = {f.name: value[rows] for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        return replace(self, pairs=pairs, prompts=self.prompts[rows], **tensors)


def padded(rows: Sequence[Sequence[int]], device: Any) -> tuple[Tensor, Tensor]:
    """(ids, mask), each (n, c), of answers of different lengths."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask


def counts(mask: Tensor) -> tuple[int, int]:
    """(rows, tokens) of the whole step, of one process's mask (r, c)."""
    rows, tokens = total(torch.tensor([len(mask), int(mask.sum())], dtype=torch.float64)).tolist()
    return int(rows), int(tokens)
