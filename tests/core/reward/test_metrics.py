"""The figures of a head, and its temperature, against hand computation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from moslim_core.reward.calibration import fit_temperature
from moslim_core.reward.metrics import expected_calibration_error, expected_level, head_metrics

# True levels 1, 2, 3, 3; predicted 1, 2, 3, 2 with confidence 0.8, 0.8, 0.8, 0.6.
P = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2]])
LEVELS = np.array([1, 2, 3, 3])


def test_figures_of_a_head() -> None:
    found = head_metrics(P, LEVELS, majority_level=1, temperature=1.5)
    assert (found.labelled, found.temperature) == (4, 1.5)
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


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_known_temperature_is_found(temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (20_000, 4))
    sure = softmax(logits / temperature, axis=1)
    levels = 1 + (sure.cumsum(axis=1) < rng.random((len(logits), 1))).sum(axis=1)
    assert fit_temperature(logits, levels) == pytest.approx(temperature, rel=0.05)


def test_temperature_of_no_rows_is_1() -> None:
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, int)) == 1.0
