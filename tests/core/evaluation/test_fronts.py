"""Operating points and the figures of a front, against numbers worked out by hand and against counting cells."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moslim_core.errors import UserError
from moslim_core.evaluation.controllability import Obtained
from moslim_core.evaluation.fronts import (
    Front,
    front,
    hypervolume,
    inner_product,
    levels_of,
    non_dominated,
    reference_of,
    reference_point,
    score_table,
    simplex_grid,
    spacing,
    sparsity,
)
from moslim_core.preferences import PreferenceSchema, Targets

SCHEMA = PreferenceSchema.model_validate(
    [
        {"name": "length", "levels": ["a", "b", "c", "d", "e"]},
        {"name": "warmth", "levels": ["a", "b", "c"], "direction": "lower_is_better"},
        {"name": "tone", "levels": ["a", "b", "c", "d", "e"], "floor": 3},
        {"name": "harm", "levels": ["harmful", "harmless"], "floor": 2},
    ]
)


@st.composite
def clouds(draw: st.DrawFn, most: int = 6) -> np.ndarray:
    """Points of whole numbers 0..4, so that many coincide in some coordinate."""
    preferences = draw(st.integers(1, 4))
    return np.array(draw(st.lists(st.tuples(*[st.integers(0, 4)] * preferences), min_size=1, max_size=most)), dtype=float)


def test_grid_of_two_preferences_is_evenly_spaced() -> None:
    assert simplex_grid(2, 5).tolist() == [[1, 0], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0, 1]]
    assert simplex_grid(2, 11)[:, 1] == pytest.approx(np.linspace(0, 1, 11))


def test_grid_of_three_preferences() -> None:
    # Thirds: on the way from a corner to the next and to the centre the nearest are equally far, so the first of them comes.
    assert simplex_grid(3, 5) * 3 == pytest.approx(np.array([(3, 0, 0), (2, 1, 0), (1, 1, 1), (0, 3, 0), (0, 0, 3)]))
    # Sixths: all ten multiples of a third; the farthest from these are halfway between two, nearest the centre (3, 2, 1).
    thirds = [w for w in itertools.product((0, 2, 4, 6), repeat=3) if sum(w) == 6]
    found = {tuple(w) for w in np.rint(simplex_grid(3, 13) * 6).astype(int).tolist()}
    assert found == {*thirds, (3, 2, 1), (1, 3, 2), (2, 1, 3)}
    assert {tuple(w) for w in np.rint(simplex_grid(3, 11) * 6).astype(int).tolist()} == {*thirds, (3, 2, 1)}


@pytest.mark.parametrize("preferences", range(2, 9))
def test_every_grid_has_corners_and_centre_and_favours_nobody(preferences: int) -> None:
    for points in range(preferences + 1, 20):
        grid = simplex_grid(preferences, points)
        assert grid.shape == (points, preferences)
        assert (grid >= 0).all() and grid.sum(axis=1) == pytest.approx(1)
        rows = [tuple(w) for w in grid.tolist()]
        assert len(set(rows)) == points and rows == sorted(rows, reverse=True)
        assert {*map(tuple, np.eye(preferences).tolist()), (1 / preferences,) * preferences} <= set(rows)
        # Rotations of a prime number of weights are all different, so that whole rounds of them fit.
        if preferences in (2, 3, 5, 7) and points % preferences == 1:
            assert grid.mean(axis=0) == pytest.approx(1 / preferences)


def test_grid_that_does_not_fit_is_refused() -> None:
    assert simplex_grid(1, 1).tolist() == [[1]]
    for preferences, points in ((3, 3), (2, 2), (8, 5), (1, 5), (1, 0)):
        with pytest.raises(UserError, match=f"^{points} operating points can't be laid out for {preferences} preferences"):
            simplex_grid(preferences, points)


def test_levels_are_those_nearest_to_the_weight_over_the_largest() -> None:
    # Over the largest: 1, 0.5, 0.8, 0. Tone's levels 3, 4, 5 score 0.5, 0.75, 1; harm has one level to ask for.
    assert dict(levels_of([0.5, 0.25, 0.4, 0], SCHEMA)) == {"length": 5, "warmth": 2, "tone": 4, "harm": 2}
    # 0.2, 1, 0.9, 0.1: length 0.25 is nearer than 0; of warmth the lowest level is the best.
    assert dict(levels_of([0.2 / 2.2, 1 / 2.2, 0.9 / 2.2, 0.1 / 2.2], SCHEMA)) == {"length": 2, "warmth": 1, "tone": 5, "harm": 2}


@given(st.lists(st.integers(0, 20), min_size=3, max_size=3).filter(any), st.integers(0, 2))
def test_a_higher_weight_never_asks_for_less_and_the_worst_is_never_asked_for(parts: list[int], place: int) -> None:
    schema = PreferenceSchema.model_validate([p.model_dump() for p in SCHEMA.preferences[:3]])
    chosen = schema.preferences[place]

    def asked(weights: list[int]) -> float:
        level = levels_of(weights, schema).get(chosen.name)
        return -1 if level is None else chosen.score(level)

    higher = [w + (i == place) for i, w in enumerate(parts)]
    assert asked(parts) <= asked(higher) and asked(parts) != min(map(chosen.score, chosen.requestable))


def test_between_two_levels_the_better_is_asked_for() -> None:
    yes_or_no = PreferenceSchema.model_validate(
        [
            {"name": "up", "levels": ["a", "b"]},
            {"name": "down", "levels": ["a", "b"], "direction": "lower_is_better"},
            {"name": "most", "levels": ["a", "b"]},
        ]
    )
    half = 1 - 0.9
    assert half / 0.2 < 0.5  # by the last bit
    assert dict(levels_of([half, half, 0.2], yes_or_no)) == {"up": 2, "down": 1, "most": 2}


def test_corners_ask_for_the_best_of_one_alone_and_the_centre_for_the_best_of_all() -> None:
    best = {"length": 5, "warmth": 1, "tone": 5, "harm": 2}
    for name, weights in zip(SCHEMA.names, np.eye(4).tolist(), strict=True):
        assert dict(levels_of(weights, SCHEMA)) == {name: best[name], "harm": 2}, "a guard has no worse level"
    assert dict(levels_of([0.25] * 4, SCHEMA)) == best
    with pytest.raises(ValueError, match="shorter"):
        levels_of([0.5, 0.5], SCHEMA)


def test_hypervolume_by_hand() -> None:
    # Columns of width 1: the first is 3 high, the second 2, the third 1.
    stairs = np.array([[1.0, 3], [2, 2], [3, 1]])
    assert hypervolume(stairs, np.zeros(2)) == pytest.approx(6)
    assert hypervolume(stairs, np.array([1.0, 1])) == pytest.approx(1), "only (2, 2) is above in both"
    # Two boxes of 2 that share 1.
    assert hypervolume(np.array([[2.0, 1, 1], [1, 2, 1]]), np.zeros(3)) == pytest.approx(3)
    assert hypervolume(np.array([[0.5], [0.7]]), np.array([0.2])) == pytest.approx(0.5)
    assert np.isnan(hypervolume(np.array([[1.0, np.nan]]), np.zeros(2)))
    assert np.isnan(hypervolume(np.array([[1.0, 1.0]]), np.array([0.0, np.nan])))


def test_a_front_without_a_reference_says_so_and_is_read_again() -> None:
    """The judge told nothing of one preference at one of the starting model's points: no volume can be measured for anybody."""
    told, untold = np.full((3, 2), 0.5), np.array([[0.5, np.nan]] * 3)
    weights, names = np.array([[1.0, 0.0], [0.0, 1.0]]), ("a", "b")
    start = front([told, untold], weights, [Targets(), Targets()], names, reference_of([told, untold], names, None), 100, 0)
    again = Front.model_validate_json(start.model_dump_json())
    assert again.reference["a"] == pytest.approx(0.49) and again.reference["b"] is None
    after = front([told, told], weights, [Targets(), Targets()], names, reference_of([told, told], names, again.reference), 100, 0)
    assert after.hypervolume.value is None and after.inner_product.value == 0.5


@given(clouds(), st.integers(0, 2))
def test_hypervolume_is_the_number_of_dominated_cells(points: np.ndarray, reference: int) -> None:
    cells = itertools.product(range(reference, 4), repeat=points.shape[1])
    count = sum(any((point > cell).all() for point in points) for cell in cells)
    assert hypervolume(points, np.full(points.shape[1], float(reference))) == pytest.approx(count)


@given(clouds(), st.randoms(use_true_random=False))
def test_figures_do_not_ask_for_the_order_and_volume_never_shrinks(points: np.ndarray, random: Any) -> None:
    order = random.sample(range(len(points)), len(points))
    reference, weights = np.full(points.shape[1], -1.0), points + 1
    for figure in (sparsity, spacing, lambda p: hypervolume(p, reference)):
        assert figure(points[order]) == pytest.approx(figure(points), nan_ok=True)
    assert inner_product(points[order], weights[order]) == pytest.approx(inner_product(points, weights))
    assert non_dominated(points[order]).tolist() == non_dominated(points)[order].tolist()
    assert hypervolume(points[:-1], reference) <= hypervolume(points, reference) + 1e-9 if len(points) > 1 else True
    # What is dominated adds nothing, and what is not dominated can't be left out, but for copies.
    best = np.unique(points[non_dominated(points)], axis=0)
    assert hypervolume(best, reference) == pytest.approx(hypervolume(points, reference))
    for i in range(len(best) if len(best) > 1 else 0):
        assert hypervolume(np.delete(best, i, axis=0), reference) < hypervolume(points, reference) - 1e-9


def test_other_figures_by_hand() -> None:
    # Sorted: 0, 1, 3 with steps 1, 2; 0, 1, 4 with steps 1, 3: (1 + 4 + 1 + 9) / 2.
    assert sparsity(np.array([[0.0, 0], [1, 4], [3, 1]])) == pytest.approx(7.5)
    # Nearest neighbours: 5, 1, 1; mean 7/3, variance 27/3 - 49/9 = 32/9.
    assert spacing(np.array([[0.0, 0], [3, 4], [3, 5]])) == pytest.approx(np.sqrt(32) / 3)
    assert np.isnan([sparsity(np.ones((1, 2))), spacing(np.ones((1, 2)))]).all()
    assert sparsity(np.ones((3, 2))) == spacing(np.ones((3, 2))) == 0
    # 1 * 1 + 0 and 0.25 * 0.4 + 0.75 * 0.8.
    assert inner_product(np.array([[1, 0.3], [0.4, 0.8]]), np.array([[1, 0], [0.25, 0.75]])) == pytest.approx((1 + 0.7) / 2)
    assert reference_point(np.array([[0.3, 0.8], [0.5, 0.2]])) == pytest.approx([0.29, 0.19])
    assert non_dominated(np.array([[1.0, 2], [2, 1], [1, 1], [2, 1], [0, 3]])).tolist() == [True, True, False, True, True]


def obtained(prompt: int, **levels: float) -> Obtained:
    return Obtained(prompt=prompt, targets={}, text="", tokens=0, truncated=False, levels=levels)


def test_scores_are_by_prompt_and_untold_ones_missing() -> None:
    answers = [obtained(7, length=5, warmth=3, tone=1, harm=2), obtained(2, length=2, warmth=1.5, harm=1)]
    expected = [[0.25, 0.75, np.nan, 0], [1, 0, 0, 1]]
    assert score_table(answers, SCHEMA) == pytest.approx(np.array(expected), nan_ok=True)


def measured(tables: list[np.ndarray], reference: tuple[float, float] = (0, 0), bootstrap: int = 200) -> Any:
    weights = simplex_grid(2, len(tables))
    levels = [Targets({"a": i + 1}) for i in range(len(tables))]
    return front(tables, weights, levels, ["a", "b"], np.array(reference), bootstrap, seed=0)


def test_front_by_hand() -> None:
    nan = np.nan
    found = measured([np.array(t) for t in ([(1, 0.1), (0.8, 0.3)], [(0.5, nan), (0.7, 0.6)], [(0.1, 0.1), (0.3, nan)])], (0.1, 0.1))
    # Means (0.9, 0.2), (0.6, 0.6), (0.2, 0.1).
    assert [[s.value for s in p.scores.values()] for p in found.points] == [
        pytest.approx([0.9, 0.2]), pytest.approx([0.6, 0.6]), pytest.approx([0.2, 0.1])
    ]  # fmt: skip
    assert [p.missing for p in found.points] == [0, 1, 1]
    assert [p.non_dominated for p in found.points] == [True, True, False]
    assert [(p.weights, p.levels) for p in found.points][1] == ({"a": 0.5, "b": 0.5}, {"a": 2})
    assert found.reference == {"a": 0.1, "b": 0.1}
    # 0.5 wide and 0.5 high, and 0.3 more in width at height 0.1.
    assert found.hypervolume.value == pytest.approx(0.25 + 0.03)
    assert found.inner_product.value == pytest.approx((0.9 + 0.6 + 0.1) / 3)
    assert found.sparsity.value == pytest.approx((0.16 + 0.09 + 0.01 + 0.16) / 2)
    assert found.hypervolume.low is None, "two prompts have no bounds"


def test_prompts_are_the_same_at_all_points_and_the_reference_stays() -> None:
    base = np.random.default_rng(0).uniform(0, 0.5, (30, 2))
    found = measured([base + shift for shift in ((0.4, 0), (0.2, 0.2), (0, 0.4))])
    # Whatever prompts are drawn, points keep their distances; with prompts of their own they would not.
    for figure in (found.sparsity, found.spacing):
        assert figure.high - figure.low < 1e-9
    assert found.sparsity.value == pytest.approx(2 * 2 * 0.04 / 2)
    # Were the reference drawn anew, a volume above it would not vary either.
    for figure in (found.hypervolume, found.inner_product, found.points[0].scores["a"]):
        assert figure.low + 0.01 < figure.value < figure.high - 0.01
    again = measured([base + shift for shift in ((0.4, 0), (0.2, 0.2), (0, 0.4))])
    assert again == found


def test_score_that_nobody_told_leaves_figures_undefined() -> None:
    table = np.full((10, 2), 0.5)
    found = measured([table, np.column_stack([np.full(10, 0.5), np.full(10, np.nan)]), table])
    assert found.points[1].scores["b"].value is None and found.points[1].scores["a"].value == 0.5
    assert found.points[1].missing == 10
    for figure in (found.hypervolume, found.inner_product, found.sparsity, found.spacing):
        assert figure.value is None
