"""How much each labelled row counts in the loss of a head: what is common must not drown what is rare. (ours)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Weighting = Literal["none", "balanced", "source_balanced"]


def row_weights(levels: np.ndarray, sources: Sequence[str], how: Weighting) -> np.ndarray:
    """(n, m) weights for levels (n, m), 0 where not labelled, mean 1 over the labelled rows of each head.

    `balanced`: inverse to the number of rows with the same level. `source_balanced`: inverse to the square root of the number with
    the same level in the same source, so that a source of a few rows is heard, and does not weigh as much as one of thousands.
    """
    weights = (levels > 0).astype(float)
    origin = np.unique(np.asarray(sources, dtype=str), return_inverse=True)[1]
    for head in range(levels.shape[1]):
        labelled = np.flatnonzero(levels[:, head])
        if how == "none" or not len(labelled):
            continue
        cells = levels[labelled, head]
        if how == "source_balanced":
            cells = cells + (levels.max() + 1) * origin[labelled]
        _, cell, counts = np.unique(cells, return_inverse=True, return_counts=True)
        inverse = 1.0 / counts[cell] if how == "balanced" else counts[cell] ** -0.5
        weights[labelled, head] = inverse / inverse.mean()
    return weights.astype(np.float32)
