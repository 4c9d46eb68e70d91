"""A prompt group is in one split: the stated one, test before validation, else one cut by the hash of the group."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moslim_core.data.rows import prompt_key, unit_hash
from moslim_core.data.settings import DataSettings
from moslim_core.data.splits import CROSSES, JUDGE, NEARLY_CROSSES, TEST, TRAIN, VALIDATION, Splits
from moslim_core.preferences import Message

NONE: frozenset[str | None] = frozenset({None})
ALL: frozenset[str | None] = frozenset({TRAIN, VALIDATION, TEST})
LONG = "please tell me in a few plain words how the old bakers of this small town make their bread every single morning"


def said(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def decided(*rows: tuple[str, str | None, frozenset[str | None]], judge: bool = False, **data: Any) -> Splits:
    splits = Splits(DataSettings(**data), judge)
    for text, stated, states in rows:
        splits.add_rated(said(text), stated, states)
    splits.decide()
    return splits


def where(splits: Splits, text: str, stated: str | None) -> tuple[str, str | None]:
    number = splits.prompts.number(said(text))
    return splits.of(number), splits.crossing(number, stated)


@pytest.mark.parametrize("order", [1, -1])
def test_stated_splits_are_kept_and_the_rest_of_the_group_is_dropped(order: int) -> None:
    rows = [(LONG, TRAIN, ALL), (LONG.upper(), TEST, ALL), (LONG + " now", VALIDATION, ALL), (LONG + "!", None, NONE)]
    splits = decided(*rows[::order])
    assert where(splits, LONG, TEST) == (TEST, None)
    assert where(splits, LONG, TRAIN) == (TEST, CROSSES)
    assert where(splits, LONG + " now", VALIDATION) == (TEST, NEARLY_CROSSES)
    # A row without a stated split goes where its group is.
    assert where(splits, LONG + "!", None) == (TEST, None)
    exact = decided(*rows[::order], near_duplicates=1)
    assert where(exact, LONG + " now", VALIDATION) == (VALIDATION, None)


def test_splits_that_no_source_states_are_cut() -> None:
    texts = [f"number {n}" for n in range(3000)]
    data = {"test_fraction": 0.2, "validation_fraction": 0.1}

    def shares(stated: str | None, states: frozenset[str | None], judge: bool = False) -> dict[str, float]:
        splits = decided(*((t, stated, states) for t in texts), judge=judge, **data)
        found = [where(splits, t, stated) for t in texts]
        assert not any(reason for _, reason in found)
        return {split: sum(at == split for at, _ in found) / 3000 for split in (TRAIN, VALIDATION, TEST, JUDGE)}

    near = pytest.approx
    assert shares(None, NONE) == near({TRAIN: 0.7, VALIDATION: 0.1, TEST: 0.2, JUDGE: 0}, abs=0.03)
    assert shares(None, NONE, judge=True) == near({TRAIN: 0.35, VALIDATION: 0.1, TEST: 0.2, JUDGE: 0.35}, abs=0.03)
    # Of a source with its own validation file only test is cut, and the other way round.
    assert shares(TRAIN, frozenset({TRAIN, VALIDATION})) == near({TRAIN: 0.8, VALIDATION: 0, TEST: 0.2, JUDGE: 0}, abs=0.03)
    assert shares(TRAIN, frozenset({TRAIN, TEST})) == near({TRAIN: 0.9, VALIDATION: 0.1, TEST: 0, JUDGE: 0}, abs=0.03)
    assert shares(TRAIN, ALL) == {TRAIN: 1, VALIDATION: 0, TEST: 0, JUDGE: 0}


def test_order_of_prompts_does_not_matter() -> None:
    rng = random.Random(0)
    texts = [f"{LONG} number {n // 2}{'.' * (n % 2)}" for n in range(200)] + [f"short {n}" for n in range(200)]
    found = []
    for _ in range(2):
        rng.shuffle(texts)
        splits = decided(*((t, None, NONE) for t in texts), near_duplicates=0.95)
        found.append({t: where(splits, t, None) for t in texts})
    assert found[0] == found[1]
    assert all(found[0][t] == found[0][t + "."] for t in texts if t.startswith(LONG) and not t.endswith("."))


def test_trained_prompts_and_summary_are_of_rated_prompts() -> None:
    splits = Splits(DataSettings(), judge=False)
    for text, stated in ((LONG, TRAIN), (LONG + "!", TRAIN), ("rain", TEST), ("snow", VALIDATION)):
        splits.add_rated(said(text), stated, ALL)
    splits.add(said("asked of the policy only"))
    splits.decide()
    assert splits.trained() == {0, 1, 3}
    assert splits.summary() == {"distinct": 4, "groups": 3, "nearly the same as another": 2, "largest group": 2}


@settings(max_examples=40)
@given(st.integers(4, 60), st.booleans(), st.integers(0, 10**6))
def test_no_split_of_a_small_set_is_left_without_prompts_that_rate_a_preference(prompts: int, judge: bool, salt: int) -> None:
    splits = Splits(DataSettings(), judge)
    texts = [f"question {number} about {salt}" for number in range(prompts)]
    for number, text in enumerate(texts):
        # One preference is rated for every fifth prompt only, but of a small set for all.
        splits.add_rated(said(text), None, NONE, ["often", *(["seldom"] if number % 5 == 0 or prompts < 20 else [])])
    splits.decide()
    wanted = {TRAIN, VALIDATION, TEST, *([JUDGE] if judge else [])}
    assert set(splits.sizes("often")) == wanted
    if prompts >= 25 or prompts < 20:
        assert set(splits.sizes("seldom")) == wanted
    assert sum(splits.sizes("often").values()) == prompts


@settings(max_examples=40)
@given(st.integers(1, 3), st.booleans(), st.integers(0, 10**6))
def test_of_the_smallest_sets_something_is_left_to_train_on(prompts: int, judge: bool, salt: int) -> None:
    splits = Splits(DataSettings(), judge)
    for number in range(prompts):
        splits.add_rated(said(f"question {number} about {salt}"), None, NONE, ["often"])
    splits.decide()
    assert splits.sizes("often")[TRAIN] >= 1


def test_a_large_set_is_split_by_hashes_alone() -> None:
    splits = Splits(DataSettings(), judge=False)
    texts = [f"question {number}" for number in range(400)]
    for text in texts:
        splits.add_rated(said(text), None, NONE, ["warmth"])
    splits.decide()
    assert all((splits.of(splits.prompts.number(said(t))) == TEST) == (unit_hash(prompt_key(said(t)), "split") < 0.1) for t in texts)
