"""The row that every head has to beat: logistic regression on TF-IDF of question and answer, with the same masked labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from moslim_core.data.rows import Row, plain_text
from moslim_core.preferences import PreferenceSchema


class TfidfClassifier:
    """One logistic regression per preference on words and word pairs; deterministic. None where rows share no words."""

    def __init__(self, schema: PreferenceSchema, rows: Sequence[Row]) -> None:
        self.schema = schema
        self.vectoriser = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, max_features=200_000)
        self.models: dict[str, LogisticRegression] = {}
        try:
            features = self.vectoriser.fit_transform(_texts(rows))
        except ValueError:
            # No word stands in two rows: a few rows, or a language that puts no spaces between words.
            return
        for name in schema.names:
            labelled = [i for i, row in enumerate(rows) if name in row.labels]
            levels = [rows[i].labels[name] for i in labelled]
            if len(set(levels)) > 1:
                self.models[name] = LogisticRegression(C=4.0, max_iter=300).fit(features[labelled], levels)

    def __call__(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        """{preference: (n, K) probabilities}; a preference that was not learnt is left out."""
        if not self.models:
            return {}
        features = self.vectoriser.transform(_texts(rows))
        result = {}
        for name, model in self.models.items():
            p = np.zeros((len(rows), self.schema[name].k))
            p[:, np.asarray(model.classes_) - 1] = model.predict_proba(features)
            result[name] = p
        return result


def _texts(rows: Sequence[Row]) -> list[str]:
    return [f"{plain_text(row.prompt)}\n{row.response}" for row in rows]
