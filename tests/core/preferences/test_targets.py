"""Training requests: every level equally often, the stated share of none, never a held-out pair, the same every time."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moslim_core.errors import UserError
from moslim_core.preferences import PreferenceSchema, Targets, TargetSampler, held_out_pairs, is_held_out
from tests.core.preferences.schemas import schemas

SCHEMA = PreferenceSchema.model_validate(
    [
        {"name": "verbosity", "levels": ["terse", "short", "medium", "long", "very long"]},
        {"name": "simplicity", "levels": ["hard", "plain", "simple"]},
        {"name": "warmth", "levels": ["cold", "neutral", "warm"], "floor": 2},
        {"name": "harmlessness", "levels": ["harmful", "harmless"], "floor": 2},
    ]
)


def draw(count: int, schema: PreferenceSchema = SCHEMA, seed: int = 0, none: float = 0.0, fraction: float = 0.0) -> list[Targets]:
    sampler = TargetSampler(schema, seed, none, held_out_pairs(schema, fraction, seed))
    return list(itertools.islice(sampler, count))


def spread(counts: Counter[int]) -> int:
    return max(counts.values()) - min(counts.values())


@pytest.mark.parametrize("count", [37, 1200])
def test_levels_names_and_sizes_are_dealt_evenly(count: int) -> None:
    drawn = draw(count)
    for preference in SCHEMA.preferences:
        levels = Counter(t[preference.name] for t in drawn if preference.name in t)
        assert set(levels) == set(preference.requestable)
        assert spread(levels) <= 1
    assert spread(Counter(len(t) for t in drawn)) <= 1
    assert spread(Counter(name for t in drawn for name in t)) <= 1


def test_levels_stay_even_where_pairs_are_held_out() -> None:
    drawn = draw(1200, fraction=0.25)
    for preference in SCHEMA.preferences:
        # A rejected card goes back into the deck, so it is dealt again; a few may be under way at the end.
        assert spread(Counter(t[preference.name] for t in drawn if preference.name in t)) <= 5


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.9])
def test_share_of_none_is_exact(share: float) -> None:
    for count in (10, 999, 1000):
        assert abs(sum(not t for t in draw(count, none=share)) - share * count) <= 1


def test_share_of_none_is_checked() -> None:
    with pytest.raises(UserError, match=r"none_fraction=1\.0"):
        TargetSampler(SCHEMA, 0, 1.0, [])


@settings(max_examples=60)
@given(schemas(), st.floats(0, 0.25), st.integers(0, 1000))
def test_training_meets_every_level_but_no_held_out_pair(schema: PreferenceSchema, fraction: float, seed: int) -> None:
    held_out = held_out_pairs(schema, fraction, seed)
    steered = [p for p in schema.preferences if not p.is_guard]
    for pair in held_out:
        assert len(pair) == 2
        assert all(level in schema[name].requestable and not schema[name].is_guard for name, level in pair.items())
    for a, b in itertools.permutations(steered, 2):
        for level in a.requestable:
            partners = [v for v in b.requestable if not is_held_out(Targets({a.name: level, b.name: v}), held_out)]
            assert partners, f"{a.name}={level} has no partner in {b.name}"
    drawn = draw(40 * len(schema), schema, seed, 0.1, fraction)
    assert not any(is_held_out(t, held_out) for t in drawn)
    asked = {item for t in drawn for item in t.items()}
    assert asked == {(p.name, level) for p in schema.preferences for level in p.requestable}


def test_same_seed_same_stream() -> None:
    assert draw(50, seed=3, none=0.1, fraction=0.1) == draw(50, seed=3, none=0.1, fraction=0.1)
    assert draw(50, seed=3) != draw(50, seed=4)
    assert held_out_pairs(SCHEMA, 0.1, 3) != held_out_pairs(SCHEMA, 0.1, 4)


def test_number_of_held_out_pairs() -> None:
    # Steered levels 5, 3 and 2: 5*3 + 5*2 + 3*2 = 31 pairs, of which a tenth is 3.
    assert len(held_out_pairs(SCHEMA, 0.1, 0)) == 3
    assert held_out_pairs(SCHEMA, 0.0, 0) == []


def test_held_out_pair_is_found_inside_a_larger_request() -> None:
    pair = [Targets({"verbosity": 1, "warmth": 3})]
    assert is_held_out(Targets({"verbosity": 1, "simplicity": 2, "warmth": 3}), pair)
    assert not is_held_out(Targets({"verbosity": 1, "simplicity": 2}), pair)
    assert not is_held_out(Targets({"verbosity": 2, "warmth": 3}), pair)


def test_nothing_left_to_ask_for_is_an_error_not_a_loop() -> None:
    schema = PreferenceSchema.model_validate([{"name": n, "levels": ["a", "b"], "floor": 2} for n in ("x", "y")])
    sampler = TargetSampler(schema, 0, 0.0, [Targets({"x": 2, "y": 2})])
    with pytest.raises(UserError, match="held out"):
        list(itertools.islice(sampler, 10))


def test_at_most_largest_preferences_are_named() -> None:
    sampler = TargetSampler(SCHEMA, 0, none_fraction=0.0, held_out=[], largest=1)
    drawn = list(itertools.islice(sampler, 80))
    assert {len(t) for t in drawn} == {1}
    assert Counter(name for t in drawn for name in t) == dict.fromkeys(SCHEMA.names, 20)


@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_contrasting_targets_ask_for_other_levels_of_the_same_preferences(count: int) -> None:
    sampler = TargetSampler(SCHEMA, 0, none_fraction=0.2, held_out=held_out_pairs(SCHEMA, 0.1, 0))
    dealt: dict[str, Counter[int]] = {name: Counter() for name in SCHEMA.names}
    for _ in range(300):
        targets = sampler.contrasting(count)
        assert len({frozenset(t) for t in targets}) == 1
        for name in targets[0]:
            levels = Counter(t[name] for t in targets)
            assert len(levels) == min(count, len(SCHEMA[name].requestable))
            assert spread(levels) <= 1
            dealt[name] += levels
    assert all(spread(levels) <= 2 * count for levels in dealt.values())
