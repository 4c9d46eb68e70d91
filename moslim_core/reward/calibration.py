"""One temperature per head, fitted on validation (Guo et al. 2017)."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

BOUNDS = (0.05, 20.0)


def fit_temperature(logits: np.ndarray, levels: np.ndarray) -> float:
    """T > 0 that minimises the negative log-likelihood of logits (n, K) / T on levels (n,) in 1..K; 1 where n = 0."""
    if len(levels) == 0:
        return 1.0

    def loss(log_t: float) -> float:
        return -float(log_softmax(logits / np.exp(log_t), axis=1)[np.arange(len(levels)), levels - 1].mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(BOUNDS)), method="bounded")
    return float(np.exp(found.x))
