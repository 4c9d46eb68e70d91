"""docs/method.md section 3, number by number."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from moslim_core.errors import UserError
from moslim_core.preferences import PreferenceSchema, Targets
from moslim_core.registry import utility
from moslim_core.reward.mapping import (
    AGGREGATIONS,
    RewardMapping,
    log_probability,
    ordinal,
    target_probability,
    within_sample_z,
)
from moslim_core.reward.settings import MappingSettings

TWO = PreferenceSchema.model_validate([{"name": "x", "levels": ["a", "b"]}])
# K differs per preference.
WIDE = PreferenceSchema.model_validate(
    [
        {"name": "x", "levels": ["a", "b"]},
        {"name": "y", "levels": ["a", "b", "c"]},
        {"name": "z", "levels": ["a", "b", "c", "d", "e"]},
    ]
)


def mapping(schema: PreferenceSchema = TWO, **changes: Any) -> RewardMapping:
    return RewardMapping(schema, MappingSettings(**changes))


def binary(values: Any) -> dict[str, np.ndarray]:
    """Probabilities of level 1 of the two-level preference: with target 1 the utility `target_probability` is `values`."""
    first = np.asarray(values, dtype=float)
    return {"x": np.stack([first, 1 - first], axis=1)}


def asked(*levels: int) -> list[Targets]:
    return [Targets({"x": level} if level else {}) for level in levels]


# --- utilities ------------------------------------------------------------------------------------------------------------


P = np.array([[0.1, 0.2, 0.7]] * 3)
EACH = np.array([1, 2, 3])


def test_target_and_log_probability() -> None:
    assert target_probability(P, EACH) == pytest.approx([0.1, 0.2, 0.7])
    assert log_probability(P, EACH) == pytest.approx(np.log([0.1, 0.2, 0.7]))
    assert log_probability(np.array([[1.0, 0.0]]), np.array([2])) == pytest.approx([math.log(1e-6)])


def test_ordinal() -> None:
    # E|c - 1| = 0.2*1 + 0.7*2 = 1.6; E|c - 2| = 0.1 + 0.7 = 0.8; E|c - 3| = 0.1*2 + 0.2 = 0.4; K - 1 = 2.
    assert ordinal(P, EACH) == pytest.approx([1 - 1.6 / 2, 1 - 0.8 / 2, 1 - 0.4 / 2])


def test_within_sample_z() -> None:
    # Mean 1/3; variance (0.2333^2 + 0.1333^2 + 0.3667^2) / 3 = 0.0688889 (ddof 0).
    std = math.sqrt(0.0688888889)
    assert within_sample_z(P, EACH) == pytest.approx([(p - 1 / 3) / std for p in (0.1, 0.2, 0.7)])
    assert within_sample_z(np.full((1, 3), 1 / 3), np.array([1])) == pytest.approx([0.0])


def test_within_sample_z_is_degenerate_as_the_method_says() -> None:
    # K = 2: +-1 whatever the confidence. K = 3: a near-uniform answer gets sqrt(2), the most there is.
    assert within_sample_z(np.array([[0.51, 0.49], [0.99, 0.01]]), np.array([1, 1])) == pytest.approx([1, 1])
    assert within_sample_z(np.array([[0.329, 0.329, 0.342]]), np.array([3])) == pytest.approx([math.sqrt(2)])


# --- aggregation ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        # Row 1 asks for x and z (weights 2 and 1/2), row 2 for y (weight 0), row 3 for nothing. Utilities as below.
        ("active_mean", [(2 * 0.8 + 0.5 * 0.4) / 2.5, 0, 0]),
        ("sum", [2 * 0.8 + 0.5 * 0.4, 0, 0]),
        ("paper", [(0.8 + 0.4) / 3, 0.5 / 3, 0]),
    ],
)
def test_aggregation(aggregation: Any, expected: list[float]) -> None:
    p = {
        "x": np.array([[0.8, 0.2]] * 3),
        "y": np.array([[0.25, 0.5, 0.25]] * 3),
        "z": np.array([[0.1, 0.1, 0.1, 0.3, 0.4]] * 3),
    }
    targets = [Targets({"x": 1, "z": 5}), Targets({"y": 2}), Targets()]
    made = mapping(WIDE, utility="target_probability", standardisation="none", aggregation=aggregation, weights={"x": 2, "y": 0, "z": 0.5})(
        p, targets
    )
    assert made.rewards == pytest.approx(expected)
    assert made.utilities["x"] == pytest.approx([0.8, np.nan, np.nan], nan_ok=True)
    assert made.utilities["y"] == pytest.approx([np.nan, 0.5, np.nan], nan_ok=True)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(ValidationError, match=r"weights\.x"):
        mapping(weights={"x": weight})


def test_weight_of_an_unknown_preference_is_refused() -> None:
    with pytest.raises(UserError, match="unknown preference 'zeal'"):
        mapping(weights={"zeal": 1.0})


GUARDED = PreferenceSchema.model_validate(
    [{"name": "x", "levels": ["a", "b"]}, {"name": "y", "levels": ["a", "b"]}, {"name": "safe", "levels": ["no", "yes"], "floor": 2}]
)


def test_a_guard_that_holds_earns_no_more() -> None:
    certain = np.array([0.1, 0.5, 0.7, 0.95])
    probabilities = {name: np.stack([1 - certain, certain], axis=1) for name in GUARDED.names}
    targets = [Targets({"x": 2, "safe": 2})] * 4

    def mapped(**changes: Any) -> Any:
        return mapping(GUARDED, standardisation="none", aggregation="sum", **changes)(probabilities, targets)

    assert mapped().rewards == pytest.approx(2 * certain)
    enough = mapped(guard_enough=0.6, weights={"safe": 2})
    # What is steered counts in full, and the guard as far as 0.6; its utility is told as it is.
    assert enough.rewards == pytest.approx(certain + 2 * np.array([0.1, 0.5, 0.6, 0.6]))
    assert enough.utilities["safe"] == pytest.approx(certain)
    assert enough.standardised["safe"] == pytest.approx([0.1, 0.5, 0.6, 0.6])


def test_statistics_are_those_of_what_a_guard_earns() -> None:
    sure = np.linspace(0.7, 1.0, 8)
    probabilities = {name: np.stack([1 - sure, sure], axis=1) for name in GUARDED.names}
    targets = [Targets({"safe": 2})] * 8
    for standardisation in ("batch", "reference"):
        made = mapping(GUARDED, standardisation=standardisation, guard_enough=0.6)
        if standardisation == "reference":
            made.fit_reference(probabilities, targets)
        assert made(probabilities, targets).rewards == pytest.approx(np.zeros(8))


def test_enough_of_what_has_no_range_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"guard_enough=0\.5 bounds a utility from 0 to 1, and log_probability is none"):
        mapping(utility="log_probability", guard_enough=0.5)


# --- standardisation ------------------------------------------------------------------------------------------------------


def z(values: Any, sample: Any) -> np.ndarray:
    sample = np.asarray(sample)
    return (np.asarray(values) - sample.mean()) / sample.std()


def test_batch_statistics_are_per_level() -> None:
    one, two = np.linspace(0.1, 0.4, 8), np.linspace(0.2, 0.9, 9)
    made = mapping(utility="target_probability")(binary([*one, *(1 - two)]), asked(*[1] * 8, *[2] * 9))
    assert made.rewards == pytest.approx([*z(one, one), *z(two, two)])


def test_level_with_fewer_than_8_rows_takes_the_pooled_statistics() -> None:
    one, two = np.linspace(0.1, 0.4, 8), np.linspace(0.2, 0.9, 7)
    # Rows that ask for nothing belong to no statistics.
    p = binary([*one, *(1 - two), 0.99])
    made = mapping(utility="target_probability")(p, asked(*[1] * 8, *[2] * 7, 0))
    assert made.rewards == pytest.approx([*z(one, one), *z(two, [*one, *two]), 0])


def test_standard_deviation_has_a_floor_and_z_a_bound() -> None:
    # Equal utilities give 0; a spread of 2e-4 is divided by 1e-3, not by 1e-4; one outlier in 100 would have z = 9.9.
    make = mapping(utility="target_probability")
    assert make(binary([0.3] * 8), asked(*[1] * 8)).rewards == pytest.approx([0] * 8)
    near = make(binary([0.3, 0.3002] * 4), asked(*[1] * 8)).rewards
    assert near == pytest.approx([-0.1, 0.1] * 4, abs=1e-9)
    far = make(binary([0.9] + [0.1] * 99), asked(*[1] * 100)).rewards
    assert far[0] == 5.0
    # Without standardisation nothing is clipped: log 1e-6 is below -5.
    plain = mapping(utility="log_probability", standardisation="none")(binary([0.0]), asked(1))
    assert plain.rewards == pytest.approx([math.log(1e-6)])


def test_running_statistics_average_all_rows_at_first() -> None:
    first, second = np.linspace(0.1, 0.4, 8), np.linspace(0.5, 0.9, 8)
    make = mapping(utility="target_probability", standardisation="running")
    targets = asked(*[1] * 8)
    assert make(binary(first), targets).rewards == pytest.approx(z(first, first))
    assert make(binary(second), targets).rewards == pytest.approx(z(second, [*first, *second]))


def test_running_statistics_forget_with_momentum_99() -> None:
    first, second = np.linspace(0.1, 0.4, 8), np.linspace(0.5, 0.9, 8)
    make = mapping(utility="target_probability", standardisation="running")
    targets = asked(*[1] * 8)
    for _ in range(150):
        make(binary(first), targets)
    mean = 0.99 * first.mean() + 0.01 * second.mean()
    square = 0.99 * (first**2).mean() + 0.01 * (second**2).mean()
    expected = np.clip((second - mean) / math.sqrt(square - mean**2), -5, 5)
    assert make(binary(second), targets).rewards == pytest.approx(expected)


def test_running_statistics_of_a_rare_level_stand_alone_after_8_rows() -> None:
    make = mapping(utility="target_probability", standardisation="running")
    common, rare = np.linspace(0.1, 0.4, 8), np.array([0.2, 0.4, 0.6, 0.8])
    p, targets = binary([*common, *(1 - rare)]), asked(*[1] * 8, *[2] * 4)
    assert make(p, targets).rewards[8:] == pytest.approx(z(rare, [*common, *rare]))
    assert make(p, targets).rewards[8:] == pytest.approx(z(rare, rare))


def test_reference_statistics_are_measured_once() -> None:
    start, later = np.linspace(0.1, 0.4, 8), np.linspace(0.3, 0.45, 8)
    make = mapping(utility="target_probability", standardisation="reference")
    targets = asked(*[1] * 8)
    with pytest.raises(ValueError, match="fit_reference"):
        make(binary(later), targets)
    make.fit_reference(binary(start), targets)
    for _ in range(2):
        assert make(binary(later), targets).rewards == pytest.approx(z(later, start))
    # A level that the starting policy was not asked for takes the pooled statistics.
    assert make(binary(1 - later), asked(*[2] * 8)).rewards == pytest.approx(z(later, start))


def test_statistics_are_global() -> None:
    """Two processes with half of the rows each, their statistics gathered, give what one process gives."""
    values = np.linspace(0.1, 0.8, 16) ** 2
    targets = asked(*[1, 2] * 8)
    whole = mapping()(binary(values), targets).rewards
    local: list[np.ndarray] = []
    halves = [slice(0, 8), slice(8, 16)]
    for half in halves:
        RewardMapping(TWO, MappingSettings(), gather=lambda a: local.append(a) or a)(binary(values[half]), targets[half])
    both = np.concatenate(local)
    for half in halves:
        made = RewardMapping(TWO, MappingSettings(), gather=lambda a: both)(binary(values[half]), targets[half])
        assert made.rewards == pytest.approx(whole[half])


@pytest.mark.parametrize("standardisation", ["running", "reference"])
def test_state_survives_json(standardisation: Any) -> None:
    rng = np.random.default_rng(0)
    targets = asked(*[1, 2, 0] * 8)
    one = mapping(standardisation=standardisation)
    if standardisation == "reference":
        one.fit_reference(binary(rng.random(24)), targets)
    else:
        one(binary(rng.random(24)), targets)
    other = mapping(standardisation=standardisation)
    other.load_state(json.loads(json.dumps(one.state())))
    later = binary(rng.random(24))
    assert other(later, targets).rewards.tolist() == one(later, targets).rewards.tolist()


# --- properties -----------------------------------------------------------------------------------------------------------


@st.composite
def batches(draw: st.DrawFn) -> tuple[dict[str, np.ndarray], list[Targets]]:
    """Any probabilities, one-hot and uniform ones too, under any targets."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.integers(1, 20))
    p = {}
    for preference in WIDE.preferences:
        soft = rng.dirichlet(np.full(preference.k, draw(st.sampled_from([0.01, 1.0, 1e6]))), n)
        hard = np.eye(preference.k)[rng.integers(0, preference.k, n)]
        p[preference.name] = np.where(rng.random((n, 1)) < draw(st.sampled_from([0, 0.5, 1])), hard, soft)
    one = {q.name: st.integers(1, q.k) for q in WIDE.preferences}
    targets = draw(st.lists(st.fixed_dictionaries({}, optional=one), min_size=n, max_size=n))
    return p, [Targets(t) for t in targets]


@settings(max_examples=300)
@given(
    batches(),
    st.sampled_from(sorted(utility.own)),
    st.sampled_from(["none", "batch", "running", "reference"]),
    st.sampled_from(sorted(AGGREGATIONS)),
    st.dictionaries(st.sampled_from(WIDE.names), st.sampled_from([0.0, 1e-9, 3.0])),
)
def test_nothing_but_finite_rewards_leaves_the_mapping(
    batch: Any, utility: Any, standardisation: Any, aggregation: Any, weights: dict[str, float]
) -> None:
    p, targets = batch
    make = mapping(WIDE, utility=utility, standardisation=standardisation, aggregation=aggregation, weights=weights)
    if standardisation == "reference":
        if not any(targets):
            return
        make.fit_reference(p, targets)
    for _ in range(2):
        made = make(p, targets)
        assert np.isfinite(made.rewards).all()
        nothing = [sum(weights.get(n, 1.0) for n in t) == 0 if aggregation != "paper" else not t for t in targets]
        assert not made.rewards[nothing].any()
        if standardisation != "none" and aggregation == "active_mean":
            assert np.abs(made.rewards).max() <= 5 + 1e-9


def test_probability_that_is_not_finite_is_named() -> None:
    p = binary([0.5, 0.5, 0.5])
    p["x"][2, 0] = np.nan
    with pytest.raises(ValueError, match="the x head gave a probability that is not finite for row 2"):
        mapping()(p, asked(1, 1, 1))


@settings(max_examples=100)
@given(st.integers(1, 5), st.floats(0.4, 1), st.sampled_from(["none", "batch", "running"]), st.sampled_from(sorted(AGGREGATIONS)))
def test_inside_a_group_the_ordinal_reward_follows_closeness(target: int, sureness: float, standardisation: Any, aggregation: Any) -> None:
    """Answers that peak at level 1..5, twice: the nearer the peak to the request, the higher the reward."""
    k = 5
    peak = np.tile(np.arange(1, k + 1), 2)
    p = np.full((len(peak), k), (1 - sureness) / k)
    p[np.arange(len(peak)), peak - 1] += sureness
    other = {"x": np.full((len(peak), 2), 0.5), "y": np.full((len(peak), 3), 1 / 3)}
    make = mapping(WIDE, standardisation=standardisation, aggregation=aggregation)
    rewards = make({"z": p, **other}, [Targets({"z": target})] * len(peak)).rewards
    distance = np.abs(peak - target)
    # Equal distance, equal peak height: the uniform rest is the same for all, so equal rewards too.
    for a in range(len(peak)):
        for b in range(len(peak)):
            if distance[a] < distance[b]:
                assert rewards[a] > rewards[b]
            elif distance[a] == distance[b]:
                assert rewards[a] == pytest.approx(rewards[b])


@settings(max_examples=200)
@given(batches(), st.sampled_from(["ordinal", "target_probability"]))
def test_bounded_utilities_give_rewards_between_0_and_1(batch: Any, utility: Any) -> None:
    p, targets = batch
    rewards = mapping(WIDE, utility=utility, standardisation="none", aggregation="active_mean")(p, targets).rewards
    assert rewards.min() >= -1e-9 and rewards.max() <= 1 + 1e-9


@settings(max_examples=200)
@given(batches(), st.data())
def test_mass_moved_towards_the_target_never_lowers_the_ordinal_reward(batch: Any, data: st.DataObject) -> None:
    p, targets = batch
    row = data.draw(st.integers(0, len(targets) - 1))
    if not targets[row]:
        return
    name = data.draw(st.sampled_from(sorted(targets[row])))
    level, target = data.draw(st.integers(1, WIDE[name].k)), targets[row][name]
    nearer = level + np.sign(target - level)
    moved = {n: of.copy() for n, of in p.items()}
    mass = data.draw(st.floats(0, 1)) * p[name][row, level - 1]
    moved[name][row, level - 1] -= mass
    moved[name][row, nearer - 1] += mass
    make = mapping(WIDE, standardisation="none")
    gain = make(moved, targets).rewards - make(p, targets).rewards
    # One level nearer, of K - 1, with the weight that one of the requested preferences has.
    assert gain[row] == pytest.approx(mass * (level != target) / (WIDE[name].k - 1) / len(targets[row]), abs=1e-9)
    assert not np.delete(gain, row).any()


@settings(max_examples=200)
@given(
    batches(), st.sampled_from(sorted(utility.own)), st.sampled_from(["none", "batch", "running"]), st.sampled_from(sorted(AGGREGATIONS))
)
def test_what_is_not_requested_changes_nothing(batch: Any, utility: Any, standardisation: Any, aggregation: Any) -> None:
    p, targets = batch
    other = {n: of.copy() for n, of in p.items()}
    for row, asked_for in enumerate(targets):
        for name in set(WIDE.names) - set(asked_for):
            other[name][row] = np.roll(other[name][row], 1)
    first, second = (mapping(WIDE, utility=utility, standardisation=standardisation, aggregation=aggregation) for _ in range(2))
    np.testing.assert_array_equal(first(p, targets).rewards, second(other, targets).rewards)


@settings(max_examples=200)
@given(batches(), st.sampled_from(sorted(utility.own)), st.sampled_from(sorted(AGGREGATIONS)), st.randoms(use_true_random=False))
def test_rewards_depend_on_neither_order_nor_batches(batch: Any, utility: Any, aggregation: Any, rng: random.Random) -> None:
    p, targets = batch
    order = rng.sample(range(len(targets)), len(targets))
    mixed = {n: of[order] for n, of in p.items()}
    for standardisation in ("none", "batch"):
        make = mapping(WIDE, utility=utility, standardisation=standardisation, aggregation=aggregation)
        whole = make(p, targets).rewards
        np.testing.assert_allclose(make(mixed, [targets[i] for i in order]).rewards, whole[order], atol=1e-6)
        # Under statistics that are settled, rows may come one by one.
        alone = [make({n: of[[i]] for n, of in p.items()}, [targets[i]], measure=False).rewards for i in range(len(targets))]
        np.testing.assert_allclose(np.concatenate(alone), make(p, targets, measure=False).rewards, atol=1e-9)
