"""How well a head classifies: docs/method.md section 2's figures, per source too, beside rows that need no reward model.

scikit-learn is imported where it counts: a report, which only reads the figures, and every command would wait seconds for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, TypeAdapter

from moslim_core.preferences import PreferenceSchema
from moslim_core.statistics.agreement import quadratic_kappa
from moslim_core.statistics.bootstrap import Interval, finite

Array = np.ndarray

BINS = 15


class Quality(BaseModel):
    """Of any predictor of levels. `kappa` (quadratic weights) and `auc` (high against low levels) are null where undefined."""

    labelled: int
    accuracy: float
    within_one: float
    macro_f1: float
    kappa: float | None
    mae: float
    auc: float | None


class Bin(BaseModel):
    """Rows whose top probability falls into one of 15 equal parts of [0, 1]."""

    rows: int
    confidence: float
    accuracy: float


class HeadMetrics(Quality):
    """One head on one split. `confusion` has true levels as rows; `tfidf` is a logistic regression on TF-IDF of the same rows.

    `preference_accuracy`: share of all rows of which the applicability head knows whether they are labelled for this preference.
    """

    majority_accuracy: float
    ece: float
    reliability: list[Bin]
    confusion: list[list[int]]
    scale: float
    sources: dict[str, Quality] = {}
    tfidf: Quality | None = None
    preference_accuracy: float | None = None


class PairAccuracy(BaseModel):
    """Share of pairs whose chosen answer has the higher expected score; a tie counts half."""

    pairs: int
    ties: int
    accuracy: Interval


METRICS = TypeAdapter(dict[str, HeadMetrics])
METRICS_FILE = "metrics.json"
CHOICES = TypeAdapter(dict[str, PairAccuracy])
CHOICES_FILE = "choices.json"


def quality(probabilities: Array, levels: Array) -> Quality:
    """Of probabilities (n, K) against levels (n,) in 1..K, n >= 1."""
    from sklearn.metrics import f1_score

    names = list(range(1, probabilities.shape[1] + 1))
    predicted = probabilities.argmax(axis=1) + 1
    expected = expected_level(probabilities)
    return Quality(
        labelled=len(levels),
        accuracy=float((predicted == levels).mean()),
        within_one=float((np.abs(predicted - levels) <= 1).mean()),
        macro_f1=float(f1_score(levels, predicted, labels=names, average="macro", zero_division=0.0)),
        kappa=finite(quadratic_kappa(levels, predicted)),
        mae=float(np.abs(expected - levels).mean()),
        auc=high_against_low(expected, levels, len(names)),
    )


def head_metrics(
    probabilities: Array,
    levels: Array,
    majority_level: int,
    scale: float,
    sources: Sequence[str] | None = None,
    tfidf: Array | None = None,
) -> HeadMetrics:
    """Of probabilities (n, K) against levels (n,) in 1..K, n >= 1, as a whole and per source (n names, if given).

    `majority_level` is the training split's most common one; `tfidf` (n, K) are the simple classifier's probabilities.
    """
    from sklearn.metrics import confusion_matrix

    names = np.array(sources if sources is not None else [])
    return HeadMetrics(
        **quality(probabilities, levels).model_dump(),
        majority_accuracy=float((levels == majority_level).mean()),
        ece=expected_calibration_error(probabilities, levels),
        reliability=reliability(probabilities, levels),
        confusion=confusion_matrix(levels, probabilities.argmax(axis=1) + 1, labels=list(range(1, probabilities.shape[1] + 1))).tolist(),
        scale=scale,
        sources={str(s): quality(probabilities[names == s], levels[names == s]) for s in np.unique(names)},
        tfidf=quality(tfidf, levels) if tfidf is not None else None,
    )


def write_metrics(directory: Path, metrics: dict[str, HeadMetrics]) -> None:
    """Beside a model: {preference: its head's metrics on the test split}."""
    (directory / METRICS_FILE).write_bytes(METRICS.dump_json(metrics, indent=1))


def read_metrics(directory: Path) -> dict[str, HeadMetrics]:
    """What `write_metrics` left beside a model."""
    return METRICS.validate_json((directory / METRICS_FILE).read_bytes())


def expected_level(probabilities: Array) -> Array:
    """E_{c~p} c, (n, K) -> (n,) in [1, K]."""
    return probabilities @ np.arange(1, probabilities.shape[1] + 1)


def expected_scores(probabilities: Mapping[str, Array], schema: PreferenceSchema) -> Array:
    """(n, m) scores of the expected levels of class probabilities {preference: (n, K)}, in [0, 1], 1 being a preference's better end."""
    return np.stack([[p.score(level) for level in expected_level(probabilities[p.name])] for p in schema.preferences], axis=1)


def high_against_low(expected: Array, levels: Array, k: int) -> float | None:
    """ROC AUC of expected levels (n,) between rows above and rows below the middle of 1..K; a middle level counts for neither."""
    from sklearn.metrics import roc_auc_score

    middle = (k + 1) / 2
    chosen = levels != middle
    high = levels[chosen] > middle
    return float(roc_auc_score(high, expected[chosen])) if 0 < high.sum() < len(high) else None


def reliability(probabilities: Array, levels: Array, bins: int = BINS) -> list[Bin]:
    """Confidence and accuracy of the top level per equal-width bin of confidence, of probabilities (n, K) and levels (n,) from 1.

    Empty bins are left out.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) + 1 == levels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        Bin(rows=int((index == b).sum()), confidence=float(confidence[index == b].mean()), accuracy=float(correct[index == b].mean()))
        for b in np.unique(index)
    ]


def expected_calibration_error(probabilities: Array, levels: Array, bins: int = BINS) -> float:
    """Mean |confidence - accuracy| over equal-width confidence bins, weighted by rows (Guo et al. 2017).

    Of probabilities (n, K) and levels (n,) from 1, n > 0.
    """
    return sum(abs(b.confidence - b.accuracy) * b.rows for b in reliability(probabilities, levels, bins)) / len(levels)


def read_choices(directory: Path) -> dict[str, PairAccuracy]:
    """How often each head preferred the chosen answer, as training saved it; of no head where the data had no choices."""
    file = directory / CHOICES_FILE
    return CHOICES.validate_json(file.read_bytes()) if file.is_file() else {}
