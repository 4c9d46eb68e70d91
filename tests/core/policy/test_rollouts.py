"""Which rows a step has, and which of them are compared: properties of any families, requests, and drawn and rated answers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moslim_core.policy.conditioning import Example
from moslim_core.policy.rollouts import Rollout, padded, pair
from moslim_core.preferences import Targets

# Of each family: answers drawn under each of its requests, and rated ones.
Families = list[tuple[list[int], int]]
FAMILIES = st.lists(st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=3), st.integers(0, 3)), min_size=1, max_size=4)


def made(families: Families) -> tuple[list[Example], list[Rollout]]:
    """As Steps gives them: what was drawn, then what was rated, each in the order of their families."""
    examples: list[Example] = []
    drawn, rated = [], []
    for number, (counts, known) in enumerate(families):
        for count in counts:
            drawn += [Rollout([1], len(examples), 10 + number)] * count
            examples.append(Example([], "", Targets(), 10 + number, []))
        rated += [Rollout([1], None, 10 + number)] * known
    return examples, drawn + rated


def comparable(families: Families, relabel: bool) -> bool:
    return all(
        sum(counts) + known > 1 if relabel else all(count + known > 1 for count in counts) for counts, known in families
    )  # fmt: skip


@given(FAMILIES, st.booleans())
def test_every_answer_meets_the_requests_that_it_counts_under_once(families: Families, relabel: bool) -> None:
    examples, rollouts = made(families)
    if not comparable(families, relabel):
        with pytest.raises(ValueError, match="answers, and an answer alone says nothing"):
            pair(examples, rollouts, relabel)
        return
    pairs = pair(examples, rollouts, relabel)
    rows = list(zip(pairs.rollouts.tolist(), pairs.requests.tolist(), strict=True))
    wanted = {
        (n, request)
        for n, rollout in enumerate(rollouts)
        for request, example in enumerate(examples)
        if example.family == rollout.family and (relabel or rollout.request in (None, request))
    }
    assert len(rows) == len(set(rows)) and set(rows) == wanted
    assert pairs.own.tolist() == [rollouts[n].request == request for n, request in rows]
    # A drawn answer's rows all point to where it was drawn; a rated one's to themselves.
    for row, home in enumerate(pairs.home.tolist()):
        assert rows[home][0] == rows[row][0]
        assert pairs.own[home] if rollouts[rows[row][0]].request is not None else home == row
    assert int(pairs.own.sum()) == sum(rollout.request is not None for rollout in rollouts)


@given(FAMILIES, st.booleans())
def test_tables_are_answers_by_requests_and_part_the_rows(families: Families, relabel: bool) -> None:
    if not comparable(families, relabel):
        return
    examples, rollouts = made(families)
    pairs = pair(examples, rollouts, relabel)
    begin = 0
    for first, answers, requests in pairs.tables:
        assert first == begin and answers > 1
        begin += answers * requests
        rows = slice(first, begin)
        of_answers, of_requests = (column[rows].view(answers, requests) for column in (pairs.rollouts, pairs.requests))
        assert (of_answers == of_answers[:, :1]).all() and (of_requests == of_requests[:1]).all()
        assert len({examples[request].family for request in of_requests[0].tolist()}) == 1
    assert begin == len(pairs.rollouts)
    assert len(pairs.tables) == (len(families) if relabel else len(examples))
    # Values come back to their rows, of whatever further size.
    values = torch.arange(begin * 2.0).view(begin, 2)
    assert torch.equal(pairs.by_table(lambda table: table * 1, values), values)
    means = pairs.by_table(lambda table: table.mean(dim=0, keepdim=True).expand_as(table), values)
    for first, answers, requests in pairs.tables:
        rows = [first + requests * n for n in range(answers)]
        assert torch.allclose(means[rows], values[rows].mean(dim=0).expand(answers, 2))


def test_padding_is_on_the_right() -> None:
    ids, mask = padded([[5], [6, 7, 8]], "cpu")
    assert ids.tolist() == [[5, 0, 0], [6, 7, 8]] and mask.tolist() == [[1, 0, 0], [1, 1, 1]]
