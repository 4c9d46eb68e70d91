"""Calibration of one head, fitted on validation: a scale and a shift per level.

The scale is a temperature (Guo et al. 2017), or a regression's standard deviation. It can't move a level's share of the rows, which
class weights bend in training, so each level has a shift of its log-probability too: vector scaling with one scale for all levels.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize

from moslim_core.reward.heads import Head

BOUNDS = (0.05, 20.0)


def calibrated(head: Head, outputs: torch.Tensor, scale: float | torch.Tensor, shift: list[float] | torch.Tensor) -> torch.Tensor:
    """outputs (n, width), shift (K,) in nats -> log p (n, K)."""
    log_p = head.log_probabilities(outputs, scale)
    return (log_p + torch.as_tensor(shift, dtype=log_p.dtype, device=log_p.device)).log_softmax(dim=-1)


def fit_calibration(head: Head, outputs: np.ndarray, levels: np.ndarray) -> tuple[float, list[float]]:
    """(scale > 0, shift (K,)) with the least negative log-likelihood of outputs (n, width) on levels (n,) in 1..K; 1 and 0 where n = 0.

    The square of the shifts is added as a prior of variance 1/2 would be (ours): few rows move them little, and a level without
    rows keeps a share.
    """
    if len(levels) == 0:
        return 1.0, [0.0] * head.k
    made = torch.from_numpy(np.asarray(outputs, dtype=np.float64))
    rows, wanted = torch.arange(len(levels)), torch.from_numpy(np.rint(levels).astype(np.int64)) - 1

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.from_numpy(values).requires_grad_()
        value = -calibrated(head, made, at[0].exp(), at[1:])[rows, wanted].mean() + at[1:].square().sum() / len(levels)
        (gradient,) = torch.autograd.grad(value, at)
        return value.item(), gradient.numpy()

    bounds = [tuple(np.log(BOUNDS)), *[(None, None)] * head.k]
    optimum = minimize(loss, np.zeros(1 + head.k), jac=True, bounds=bounds, method="L-BFGS-B").x
    return float(np.exp(optimum[0])), optimum[1:].tolist()
