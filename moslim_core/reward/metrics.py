"""How well a head classifies: docs/method.md section 2's figures, beside the majority class."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel
from sklearn.metrics import cohen_kappa_score, confusion_matrix, f1_score

Array = np.ndarray


class HeadMetrics(BaseModel):
    """One head on one split. `confusion` has true levels as rows; `kappa` (quadratic weights) is null where undefined."""

    labelled: int
    accuracy: float
    majority_accuracy: float
    within_one: float
    macro_f1: float
    kappa: float | None
    mae: float
    ece: float
    confusion: list[list[int]]
    temperature: float


def head_metrics(probabilities: Array, levels: Array, majority_level: int, temperature: float) -> HeadMetrics:
    """Of probabilities (n, K) against levels (n,) in 1..K, n >= 1. `majority_level` is the training split's most common one."""
    k = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1) + 1
    names = list(range(1, k + 1))
    varied = len(np.unique(np.concatenate([predicted, levels]))) > 1
    return HeadMetrics(
        labelled=len(levels),
        accuracy=float((predicted == levels).mean()),
        majority_accuracy=float((levels == majority_level).mean()),
        within_one=float((np.abs(predicted - levels) <= 1).mean()),
        macro_f1=float(f1_score(levels, predicted, labels=names, average="macro", zero_division=0.0)),
        kappa=float(cohen_kappa_score(levels, predicted, labels=names, weights="quadratic")) if varied else None,
        mae=float(np.abs(expected_level(probabilities) - levels).mean()),
        ece=expected_calibration_error(probabilities, levels),
        confusion=confusion_matrix(levels, predicted, labels=names).tolist(),
        temperature=temperature,
    )


def expected_level(probabilities: Array) -> Array:
    """E_{c~p} c, (n, K) -> (n,) in [1, K]."""
    return probabilities @ np.arange(1, probabilities.shape[1] + 1)


def expected_calibration_error(probabilities: Array, levels: Array, bins: int = 10) -> float:
    """Mean |confidence - accuracy| over equal-width confidence bins, weighted by rows (Guo et al. 2017)."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) + 1 == levels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[index == b].mean() - correct[index == b].mean()) * (index == b).mean() for b in np.unique(index)]
    return float(sum(gaps))
