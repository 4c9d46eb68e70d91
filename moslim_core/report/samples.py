"""Which prompt's answers a page shows: by a rule, so that nobody picks one that flatters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from moslim_core.evaluation.comparison import Given, SamplePrompt, SampleRequest
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


def side_by_side(
    answers: Mapping[str, Sequence[Obtained]], prompts: Sequence[str], schema: PreferenceSchema, seed: int
) -> SamplePrompt | None:
    """What each variant answered to one prompt where the lowest and the highest level of a preference was requested.

    `answers`: of each variant under a seed. The prompt is that with the median error over the answers of all variants. A request that a
    variant did not get is left out; None where nothing was judged.
    """
    chosen = median_prompt([row for rows in answers.values() for row in rows if len(row.targets) == 1], schema)
    if chosen is None:
        return None
    given = {variant: {tuple(row.targets.items()): row for row in rows if row.prompt == chosen} for variant, rows in answers.items()}
    requests = []
    for preference in schema.preferences:
        for level in () if preference.is_guard else (preference.floor, preference.k):
            wanted = ((preference.name, level),)
            by_variant = {
                variant: Given(text=rows[wanted].shown, obtained=rows[wanted].levels.get(preference.name))
                for variant, rows in given.items()
                if wanted in rows
            }
            requests.append(SampleRequest(preference=preference.name, level=level, answers=by_variant))
    return SamplePrompt(prompt=prompts[chosen], seed=seed, preferences=schema, requests=requests)
