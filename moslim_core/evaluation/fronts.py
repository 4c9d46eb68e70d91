"""Quality of a front: every method answers at the same operating points, and the same figures say how good the answers are.

An operating point is a vector of weights that sum to 1, one per preference. What a method gives there is a point: the mean score of
each preference over prompts, by the judge, in [0, 1], more being better. Arrays of points are (n, m), n points of m preferences.
(docs/method.md section 5)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import moocore
import numpy as np
from pydantic import BaseModel

from moslim_core.errors import UserError
from moslim_core.evaluation.controllability import Obtained
from moslim_core.preferences import Preference, PreferenceSchema, Targets
from moslim_core.statistics.bootstrap import Interval, interval, resamples

Array = np.ndarray

# How far below the starting model's worst means the reference point lies: a method no better than these still has some volume.
MARGIN = 0.01

# What says how good a front is: fields of `Front`.
FIGURES = ("hypervolume", "inner_product", "sparsity", "spacing")


class OperatingPoint(BaseModel):
    """What was requested and what came of it. `levels` is empty where the weights steer without levels; `missing` counts scores."""

    weights: dict[str, float]
    levels: dict[str, int]
    scores: dict[str, Interval]
    missing: int
    non_dominated: bool


class Front(BaseModel):
    """Of one system. A figure is null where a preference has no score at all at some operating point; `reference` where the starting
    model has none of it."""

    points: list[OperatingPoint]
    reference: dict[str, float | None]
    hypervolume: Interval
    inner_product: Interval
    sparsity: Interval
    spacing: Interval


def simplex_grid(preferences: int, points: int) -> Array:
    """The operating points: (points, preferences) weights, those that favour the first preference most come first. (ours)

    Chosen from the weights that are multiples of 1/h, h being the smallest multiple of `preferences` with enough of them: every
    corner, the centre, then always the one farthest from all that are chosen (Kennard & Stone 1969) and, of equally far ones, nearest
    the centre. Its rotations follow it, so that preferences are favoured alike but for rotations that no longer fit. An odd
    number of points for two preferences is evenly spaced. Raises UserError where corners and centre don't fit.
    """
    if not (points > preferences > 1 or points == preferences == 1):
        raise UserError(
            f"{points} operating points can't be laid out for {preferences} preferences.\n"
            "At least one more than there are preferences is needed; a single preference has exactly one."
        )
    h = preferences
    while math.comb(h + preferences - 1, h) < points:
        h += preferences
    lattice = _lattice(preferences, h)
    chosen = np.vstack([h * np.eye(preferences, dtype=int), np.full(preferences, h // preferences)])
    while len(chosen) < points:
        # In whole numbers: equal distances must be equal, whatever the machine.
        nearest = ((lattice[:, None] - chosen) ** 2).sum(axis=2).min(axis=1)
        farthest = lattice[nearest.argmax()]
        rotations = np.unique([np.roll(farthest, by) for by in range(preferences)], axis=0)[::-1]
        chosen = np.vstack([chosen, rotations])
    return np.unique(chosen[:points], axis=0)[::-1] / h


def _lattice(parts: int, total: int) -> Array:
    """All (n, parts) whole numbers >= 0 that sum to `total`, the most even first, then those with the largest first part."""
    # Stars and bars: the parts are the gaps between bars among total + parts - 1 places.
    bars = np.array(list(itertools.combinations(range(total + parts - 1), parts - 1)), dtype=int)
    gaps = np.diff(bars, prepend=-1, append=total + parts - 1, axis=1)[::-1] - 1
    return gaps[np.argsort((gaps**2).sum(axis=1), kind="stable")]


def levels_of(weights: Sequence[float], schema: PreferenceSchema) -> Targets:
    """The targets of a method that is steered by levels at an operating point, one weight per preference of the schema. (ours)

    Of each preference the requestable level whose score is nearest to its weight over the largest weight, the better of two equally
    near. So the largest weight asks for the best level, and equal weights for the best of everything. Where the worst of several is
    nearest nothing is requested: who hardly cares for a preference does not want its worst.
    """
    largest = max(weights)
    nearest = {p.name: _nearest(p, w / largest) for p, w in zip(schema.preferences, weights, strict=True)}
    return schema.targets({p.name: nearest[p.name] for p in schema.preferences if p.is_guard or nearest[p.name] != _worst(p)})


def _worst(preference: Preference) -> int:
    return min(preference.requestable, key=preference.score)


def _nearest(preference: Preference, score: float) -> int:
    # Rounded: half-way is half-way, whatever the last bit of a quotient.
    return min(preference.requestable, key=lambda level: (round(abs(preference.score(level) - score), 9), -preference.score(level)))


def score_table(answers: Sequence[Obtained], schema: PreferenceSchema) -> Array:
    """(prompts, m) scores of the answers at one operating point, one per prompt, by prompt; NaN where the judge could not tell."""
    return np.array(
        [
            [p.score(a.levels[p.name]) if p.name in a.levels else np.nan for p in schema.preferences]
            for a in sorted(answers, key=lambda a: a.prompt)
        ]
    )


def reference_point(points: Array) -> Array:
    """(m,) worst means of the starting model's points, less 0.01: the same for every method that is compared. (ours)"""
    return points.min(axis=0) - MARGIN


def reference_of(tables: Sequence[Array], names: Sequence[str], start: Mapping[str, float | None] | None) -> Array:
    """(m,) the starting model's reference point, `start`; None: these are its own score tables (prompts, m). NaN where it has no score."""
    if start is None:
        return reference_point(np.array([_means(table) for table in tables]))
    return np.array([start[name] for name in names], dtype=float)


def hypervolume(points: Array, reference: Array) -> float:
    """Volume that the points dominate above `reference` (m,) (Zitzler & Thiele 1999); a point not above it in everything adds none."""
    # moocore takes a NaN for a point below the reference.
    unknown = np.isnan(points).any() or np.isnan(reference).any()
    return float("nan") if unknown else float(moocore.hypervolume(points, ref=reference, maximise=True))


def inner_product(points: Array, weights: Array) -> float:
    """Mean over points of w . s, `weights` (n, m): do scores go where the weights point?"""
    return float((points * weights).sum(axis=1).mean())


def sparsity(points: Array) -> float:
    """Mean squared distance between consecutive points: sum over preferences of sorted scores' squared steps, by n - 1 (Xu et al. 2020).

    Of all operating points, dominated ones too, so that every method has as many steps. It is 0 where all points coincide: a small
    sparsity is good only beside a large hypervolume. NaN for a single point.
    """
    return float((np.diff(np.sort(points, axis=0), axis=0) ** 2).sum() / (len(points) - 1)) if len(points) > 1 else float("nan")


def spacing(points: Array) -> float:
    """Standard deviation of the Euclidean distances of points (n, m) to the nearest other (after Schott 1995); NaN for a single point."""
    if len(points) < 2:
        return float("nan")
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    np.fill_diagonal(distances, np.inf)
    return float(distances.min(axis=1).std())


def non_dominated(points: Array) -> Array:
    """Of points (n, m): (n,) true where no other point is at least as good in everything and better in something."""
    return np.array([not ((points >= p).all(axis=1) & (points > p).any(axis=1)).any() for p in points])


def _means(scores: Array) -> Array:
    """Over the first axis, without NaN; NaN where nothing else is."""
    counts = (~np.isnan(scores)).sum(axis=0)
    return np.where(counts > 0, np.nansum(scores, axis=0) / np.maximum(counts, 1), np.nan)


def quality(figure: str, scores: Array, weights: Array, reference: Array) -> float:
    """One of FIGURES, of scores (prompts, n, m)."""
    points = _means(scores)
    match figure:
        case "hypervolume":
            return hypervolume(points, reference)
        case "inner_product":
            return inner_product(points, weights)
        case "sparsity":
            return sparsity(points)
    return spacing(points)


def front(
    tables: Sequence[Array],
    weights: Array,
    levels: Sequence[Targets],
    names: Sequence[str],
    reference: Array,
    bootstrap: int,
    seed: int,
) -> Front:
    """Of a score table (prompts, m), the weights (n, m) and the targets of each operating point, with the preferences' names.

    Intervals: 95 %, `bootstrap` resamples of prompts, which are the same at all operating points. `reference` (m,) stays as given.
    """
    scores = np.stack(tables, axis=1)
    points, missing = _means(scores), np.isnan(scores).sum(axis=(0, 2))
    draws, best = resamples(np.arange(len(scores)), bootstrap, seed), non_dominated(points)
    return Front(
        points=[
            OperatingPoint(
                weights=dict(zip(names, weights[i].tolist(), strict=True)),
                levels=dict(levels[i]),
                scores={name: interval(lambda s: float(_means(s)), (scores[:, i, j],), draws) for j, name in enumerate(names)},
                missing=int(missing[i]),
                non_dominated=bool(best[i]),
            )
            for i in range(len(points))
        ],
        reference=dict(zip(names, reference.tolist(), strict=True)),
        **{figure: interval(lambda s, f=figure: quality(f, s, weights, reference), (scores,), draws) for figure in FIGURES},
    )
