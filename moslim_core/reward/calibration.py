"""One scale per head, fitted on validation: a temperature (Guo et al. 2017), or the standard deviation of a regression."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from moslim_core.reward.heads import Head

BOUNDS = (0.05, 20.0)


def fit_scale(head: Head, outputs: np.ndarray, levels: np.ndarray) -> float:
    """The scale > 0 with the least negative log-likelihood of outputs (n, width) on levels (n,) in 1..K; 1 where n = 0."""
    if len(levels) == 0:
        return 1.0
    made = torch.from_numpy(np.asarray(outputs, dtype=np.float64))
    rows, wanted = torch.arange(len(levels)), torch.from_numpy(np.rint(levels).astype(np.int64)) - 1

    def loss(log_scale: float) -> float:
        return -float(head.log_probabilities(made, float(np.exp(log_scale)))[rows, wanted].mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(BOUNDS)), method="bounded")
    return float(np.exp(found.x))
