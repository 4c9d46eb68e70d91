"""Several preferences in one request: what is asked, and that each one's correlation is its own."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from moslim_core.evaluation.controllability import Obtained
from moslim_core.evaluation.joint_requests import requests_together, together
from moslim_core.preferences import PreferenceSchema, Targets, is_held_out

SCHEMA = PreferenceSchema.model_validate(
    [
        {"name": "length", "levels": ["short", "middling", "long"]},
        {"name": "warmth", "levels": ["cold", "neutral", "warm"]},
        {"name": "harm", "levels": ["harmful", "harmless"], "floor": 2},
        {"name": "tone", "levels": ["dry", "wry"]},
    ]
)


def test_as_many_requests_for_two_as_for_three_and_none_for_a_guard_or_held_out() -> None:
    held_out = [Targets({"length": 1, "warmth": 3})]
    asked = requests_together(SCHEMA, held_out, prompts=50, each=2, seed=0)
    assert Counter((prompt, len(targets)) for prompt, targets in asked) == {(p, size): 2 for p in range(50) for size in (2, 3)}
    assert not any(is_held_out(targets, held_out) or "harm" in targets for _, targets in asked)
    assert {targets["length"] for _, targets in asked if "length" in targets} == {1, 2, 3}
    assert asked == requests_together(SCHEMA, held_out, 50, 2, 0) != requests_together(SCHEMA, held_out, 50, 2, 1)


def test_where_all_is_held_out_nothing_is_asked() -> None:
    two = PreferenceSchema.model_validate([{"name": n, "levels": ["low", "high"]} for n in ("a", "b")])
    every = [Targets({"a": i, "b": j}) for i in (1, 2) for j in (1, 2)]
    assert requests_together(two, every, 3, 1, 0) == []


def test_each_preference_has_its_own_correlation_by_number_asked() -> None:
    """Alone all follow; of two `length` alone does."""
    rng = random.Random(0)

    def row(prompt: int, targets: dict[str, int], follows: set[str]) -> Obtained:
        levels = {n: float(level if n in follows else rng.choice([1, 2, 3])) for n, level in targets.items()}
        return Obtained(prompt=prompt, targets=targets, text="w", tokens=1, truncated=False, levels=levels)

    alone = [row(n % 20, {name: rng.choice([1, 2, 3])}, {"length", "warmth"}) for n in range(200) for name in ("length", "warmth")]
    pairs = [row(n % 20, {"length": rng.choice([1, 2, 3]), "warmth": rng.choice([1, 2, 3])}, {"length"}) for n in range(200)]
    found = together(pairs, alone, SCHEMA, 200, 0).spearman
    assert list(found) == [1, 2]
    assert found[1]["length"].value == pytest.approx(1) and found[1]["warmth"].value == pytest.approx(1)
    assert found[2]["length"].value == pytest.approx(1)
    assert abs(found[2]["warmth"].value or 0) < 0.2
    assert found[2]["tone"].value is None and "harm" not in found[2]
