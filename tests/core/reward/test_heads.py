"""Each head type's probabilities and loss against numbers computed by hand, and what holds for all of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from moslim_core import registry
from moslim_core.reward.calibration import calibrated, fit_calibration
from moslim_core.reward.heads import ClassificationHead, OrdinalHead, RegressionHead, TwoHotHead, two_hot


def test_classification() -> None:
    head = ClassificationHead(2, 3)
    outputs = torch.tensor([[1.0, 1.0, 2.0]]).log()
    assert head.log_probabilities(outputs).exp().tolist()[0] == pytest.approx([0.25, 0.25, 0.5])
    # Half the scale squares the odds: 1, 1, 4 of 6.
    assert head.log_probabilities(outputs, 0.5).exp().tolist()[0] == pytest.approx([1 / 6, 1 / 6, 4 / 6])
    assert head.row_losses(outputs, torch.tensor([3])).item() == pytest.approx(math.log(2))


def test_ordinal_is_differences_of_cumulative_probabilities() -> None:
    head = OrdinalHead(2, 3)
    # Cumulative odds 1:3 and 3:1, so P(c <= 1) = 1/4, P(c <= 2) = 3/4.
    outputs = torch.tensor([[math.log(1 / 3), math.log(3)]])
    assert head.log_probabilities(outputs).exp().tolist()[0] == pytest.approx([0.25, 0.5, 0.25])
    # At twice the temperature the odds are their square roots: sqrt(1/3) / (1 + sqrt(1/3)) = 0.36603.
    assert head.log_probabilities(outputs, 2.0).exp().tolist()[0] == pytest.approx([0.36603, 0.26795, 0.36603], abs=1e-5)
    assert head.row_losses(outputs, torch.tensor([2])).item() == pytest.approx(math.log(2))


def test_ordinal_thresholds_rise_from_one_apart() -> None:
    head = OrdinalHead(2, 4)
    torch.nn.init.zeros_(head.linear.weight)
    torch.nn.init.zeros_(head.linear.bias)
    assert head(torch.zeros(1, 2)).tolist()[0] == pytest.approx([-1, 0, 1], abs=1e-4)
    with torch.no_grad():
        head.gaps.fill_(-50.0)
    outputs = head(torch.zeros(1, 2))
    assert (outputs[0].diff() >= 0).all()
    assert torch.isfinite(head.log_probabilities(outputs)).all(), "levels without room stay finite"


def test_ordinal_has_two_levels_too() -> None:
    head = OrdinalHead(2, 2)
    outputs = head(torch.randn(5, 2))
    assert outputs.shape == (5, 1)
    assert head.log_probabilities(outputs).exp().sum(dim=1).tolist() == pytest.approx([1.0] * 5)


def test_regression_is_a_gaussian_over_the_levels_bins() -> None:
    head = RegressionHead(2, 3)
    outputs = torch.tensor([[2.0], [2.5], [40.0]])
    # Bins end at 1.5 and 2.5.
    expected = [[norm.cdf(-0.5), norm.cdf(0.5) - norm.cdf(-0.5), norm.cdf(-0.5)], [norm.cdf(-1), 0.5 - norm.cdf(-1), 0.5], [0, 0, 1]]
    assert np.allclose(head.log_probabilities(outputs).exp().detach().numpy(), expected, atol=1e-6)
    assert head.log_probabilities(outputs, 0.5).exp()[0, 0].item() == pytest.approx(norm.cdf(-1))
    assert head.row_losses(outputs[:2], torch.tensor([1.0, 3.0])).tolist() == pytest.approx([1, 0.25])
    torch.nn.init.zeros_(head.linear.weight)
    torch.nn.init.zeros_(head.linear.bias)
    assert head(torch.zeros(1, 2)).item() == 2, "starts in the middle"


def test_two_hot() -> None:
    assert two_hot(torch.tensor([2.25, 1.0, 3.0]), 3).tolist() == [[0, 0.75, 0.25], [1, 0, 0], [0, 0, 1]]
    head = TwoHotHead(2, 3)
    outputs = torch.tensor([[1.0, 1.0, 2.0]]).log()
    assert head.row_losses(outputs, torch.tensor([2.25])).item() == pytest.approx(0.75 * math.log(4) + 0.25 * math.log(2))
    whole = torch.tensor([3.0])
    assert head.row_losses(outputs, whole).item() == pytest.approx(ClassificationHead(2, 3).row_losses(outputs, whole).item())


@given(
    kind=st.sampled_from(list(registry.head.own)),
    k=st.integers(2, 7),
    pooled=st.lists(st.lists(st.floats(-50, 50), min_size=2, max_size=2), min_size=1, max_size=4),
    scale=st.floats(0.05, 20),
)
def test_probabilities_are_probabilities(kind: str, k: int, pooled: list[list[float]], scale: float) -> None:
    torch.manual_seed(0)
    head = registry.head[kind](2, k)
    outputs = head(torch.tensor(pooled))
    assert outputs.shape == (len(pooled), head.width)
    log_p = head.log_probabilities(outputs, scale)
    assert log_p.shape == (len(pooled), k)
    assert torch.isfinite(log_p).all() if kind != "classification" else not torch.isnan(log_p).any()
    assert torch.allclose(log_p.exp().sum(dim=1), torch.ones(len(pooled)), atol=1e-4)
    losses = head.row_losses(outputs, torch.full((len(pooled),), k))
    losses.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", registry.head.own)
@pytest.mark.parametrize(("scale", "shift"), [(0.4, [0.0] * 4), (1.0, [0.5, -0.5, 0.3, -0.3]), (2.5, [-0.4, 0.0, 0.0, 0.4])])
def test_known_calibration_is_found(kind: str, scale: float, shift: list[float]) -> None:
    """Levels drawn from a head's own probabilities at a scale and a shift lead back to them."""
    torch.manual_seed(0)
    head, rng = registry.head[kind](3, 4), np.random.default_rng(0)
    with torch.no_grad():
        outputs = head(torch.randn(20_000, 3) * 6)
        p = calibrated(head, outputs, scale, shift).exp().numpy()
    levels = 1 + (p.cumsum(axis=1) < rng.random((len(p), 1))).sum(axis=1).clip(max=3)
    found = fit_calibration(head, outputs.numpy(), levels)
    assert found[0] == pytest.approx(scale, rel=0.06)
    assert found[1] == pytest.approx(shift, abs=0.1)


def test_calibration_of_no_rows_is_none() -> None:
    assert fit_calibration(ClassificationHead(2, 3), np.zeros((0, 3)), np.zeros(0, int)) == (1.0, [0.0, 0.0, 0.0])


def test_a_shift_multiplies_the_odds_of_its_level() -> None:
    p = calibrated(ClassificationHead(2, 3), torch.tensor([[1.0, 1.0, 2.0]]).log(), 1.0, [np.log(3), 0.0, 0.0]).exp()
    assert p[0].tolist() == pytest.approx([3 / 6, 1 / 6, 2 / 6])


def test_shifts_give_back_shares_that_class_weights_bent() -> None:
    """A head that knows nothing and was told that all levels are as frequent; a level without rows keeps a share.

    Where the gradient of sum -log p + |b|^2 vanishes, n p_k = n_k - 2 b_k.
    """
    levels = np.repeat([1, 2], [90, 10])
    scale, shift = fit_calibration(ClassificationHead(2, 3), np.zeros((100, 3)), levels)
    p = calibrated(ClassificationHead(2, 3), torch.zeros(1, 3), scale, shift).exp()[0].tolist()
    assert p == pytest.approx([(count - 2 * b) / 100 for count, b in zip((90, 10, 0), shift, strict=True)], abs=1e-3)
    assert p == pytest.approx([0.872, 0.097, 0.031], abs=0.01)
