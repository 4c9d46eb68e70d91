"""Which prompt's answers a page shows: by a rule, so that nobody picks one that flatters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from moslim_core.evaluation.controllability import Obtained
from moslim_core.preferences import PreferenceSchema


def median_prompt(rows: Sequence[Obtained], schema: PreferenceSchema) -> int | None:
    """Of the prompts of answers to requests for one preference, that with the median error; None where nothing was judged.

    An error is how far answers are off what was requested, as a share of the preference's range, meant over a prompt's answers.
    """
    errors: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        for name, level in row.targets.items():
            if name in row.levels:
                errors[row.prompt].append(abs(row.levels[name] - level) / (schema[name].k - 1))
    ranked = sorted(errors, key=lambda prompt: (float(np.mean(errors[prompt])), prompt))
    return ranked[(len(ranked) - 1) // 2] if ranked else None
