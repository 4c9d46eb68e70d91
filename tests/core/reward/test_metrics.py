"""The figures of a head against hand computation."""

from __future__ import annotations

import numpy as np
import pytest

from moslim_core.reward.metrics import expected_calibration_error, expected_level, head_metrics, high_against_low, reliability

# True levels 1, 2, 3, 3; predicted 1, 2, 3, 2 with confidence 0.8, 0.8, 0.8, 0.6.
P = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2]])
LEVELS = np.array([1, 2, 3, 3])


def test_figures_of_a_head() -> None:
    found = head_metrics(P, LEVELS, majority_level=1, scale=1.5)
    assert (found.labelled, found.scale) == (4, 1.5)
    assert found.accuracy == pytest.approx(3 / 4)
    assert found.majority_accuracy == pytest.approx(1 / 4)
    assert found.within_one == pytest.approx(1)
    # F1: level 1 1; level 2 precision 1/2, recall 1: 2/3; level 3 precision 1, recall 1/2: 2/3.
    assert found.macro_f1 == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    # Weights (i-j)^2/4. Observed: one pair (3,2): 1/4 * 1/4 = 0.0625. By chance, true (1,1,2)/4 and predicted (1,2,1)/4:
    # 1/4*(1/8 + 1/16 + 1/16 + 1/4) for neighbours, 1*(1/16 + 1/8) for the ends = 0.125 + 0.1875 = 0.3125.
    assert found.kappa == pytest.approx(1 - 0.0625 / 0.3125)
    # Expected levels 1.3, 2, 2.7, 2: errors 0.3, 0, 0.3, 1.
    assert found.mae == pytest.approx(0.4)
    assert found.confusion == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]


def test_kappa_is_null_where_all_is_one_level() -> None:
    assert head_metrics(P[:1], LEVELS[:1], 1, 1.0).kappa is None
    # One true level, two predicted: defined, and 0.
    assert head_metrics(P[2:], LEVELS[2:], 1, 1.0).kappa == pytest.approx(0)


def test_calibration_error() -> None:
    # Bin 0.8-0.9: 3 rows, all right: gap 0.2, weight 3/4. Bin 0.6-0.7: 1 row, wrong: gap 0.6, weight 1/4.
    assert expected_calibration_error(P, LEVELS) == pytest.approx(0.75 * 0.2 + 0.25 * 0.6)
    assert expected_calibration_error(np.eye(3), np.array([1, 2, 3])) == 0  # confidence 1 belongs to the last bin


def test_expected_level() -> None:
    assert expected_level(np.array([[0.5, 0.25, 0.25], [0, 0, 1]])) == pytest.approx([1.75, 3])


def test_reliability_bins() -> None:
    found = [(b.rows, b.confidence, b.accuracy) for b in reliability(P, LEVELS)]
    # In fifteenths: 0.6 lies in bin 9 (0.6 to 0.667), 0.8 in bin 12.
    assert found == [(1, pytest.approx(0.6), 0.0), (3, pytest.approx(0.8), 1.0)]


def test_high_against_low_levels() -> None:
    # K=5: levels 4, 5 against 1, 2; pairs (3.0 over 1.0), (3.0 over 2.5), (2.0 over 1.0) are right, (2.0 over 2.5) is wrong.
    expected, levels = np.array([3.0, 2.0, 1.0, 2.5, 9.0]), np.array([4, 5, 1, 2, 3])
    assert high_against_low(expected, levels, 5) == pytest.approx(3 / 4)
    # K=2 has no middle; one side only has no AUC.
    assert high_against_low(np.array([1.2, 1.9]), np.array([1, 2]), 2) == 1
    assert high_against_low(np.array([1.2, 1.9]), np.array([2, 2]), 2) is None


def test_per_source_and_beside_a_simple_classifier() -> None:
    found = head_metrics(P, LEVELS, 1, 1.0, sources=["a", "b", "a", "b"], tfidf=np.full((4, 3), 1 / 3))
    assert {name: (q.labelled, q.accuracy) for name, q in found.sources.items()} == {"a": (2, 1.0), "b": (2, 0.5)}
    assert found.tfidf is not None
    # All expected levels are 2: errors 1, 0, 1, 1, and ties between high and low.
    assert (found.tfidf.mae, found.tfidf.auc) == (pytest.approx(3 / 4), 0.5)
