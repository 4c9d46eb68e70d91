"""Controllability: how obtained levels follow requested levels, one row per generated answer (docs/method.md section 5)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from pydantic import BaseModel

from moslim_core.preferences import Preference, PreferenceSchema, Targets, clauses, is_held_out
from moslim_core.statistics.agreement import exact, spearman
from moslim_core.statistics.bootstrap import Interval, interval, resamples

Array = np.ndarray


class Obtained(BaseModel):
    """One answer and the levels that the judge gave it. A preference that the judge could not tell is missing, never a level."""

    prompt: int
    targets: dict[str, int]
    text: str
    tokens: int
    truncated: bool
    levels: dict[str, float]

    @property
    def shown(self) -> str:
        """The text, with a mark where the longest length cut it."""
        return f"{self.text}…" if self.truncated else self.text


class LevelMean(BaseModel):
    """What answers looked like where one level was requested."""

    level: int
    answers: int
    obtained: Interval
    words: float | None


class Control(BaseModel):
    """One preference. For a guard (one level can be requested) only `levels`, `mae` and `answers` carry meaning."""

    guard: bool
    answers: int
    missing: int
    spearman: Interval
    mae: Interval
    exact: Interval
    within_one: Interval
    span: Interval
    violations: int
    levels: list[LevelMean]

    @property
    def followed(self) -> Interval:
        """The Spearman; 0 where it is undefined as answers to different requests are all alike: what follows nothing must not drop out of a
        mean over runs. (ours)"""
        alike = self.spearman.value is None and self.answers > 2 and sum(level.answers > 0 for level in self.levels) > 1
        return Interval(value=0.0, low=None, high=None) if alike else self.spearman


class Controllability(BaseModel):
    """Of one system. `cross_talk[i][j]` is the slope of the obtained score of j on the requested score of i.

    `repeats_instruction`: share of the answers that say what only an instruction says. To a judge `warmth 3/3` may be warm.
    `off_topic`: share of those that are not about their question; None where it was not measured. `restated`: of those that only say it
    again (reward/restatement.py).
    """

    preferences: dict[str, Control]
    cross_talk: dict[str, dict[str, Interval]]
    held_out: Interval
    seen_pairs: Interval
    answers: int
    truncated: float
    repeats_instruction: float = 0.0
    off_topic: float | None = None
    restated: float | None = None

    @property
    def following(self) -> dict[str, Interval]:
        """`preference/spearman`, or of a guard, whose one level has no order, `preference/mae`."""
        return {f"{n}/mae" if of.guard else f"{n}/spearman": of.mae if of.guard else of.followed for n, of in self.preferences.items()}

    @property
    def distances(self) -> dict[str, Interval]:
        """How near the answers come to their levels, of what can be steered: mean error, shares that meet the level and that miss it by one
        at most, span."""
        steered = {name: of for name, of in self.preferences.items() if not of.guard}
        return {
            f"{name}/{figure}": getattr(of, figure) for name, of in steered.items() for figure in ("mae", "exact", "within_one", "span")
        }

    @property
    def left_open(self) -> float | None:
        """Mean size of the cross-talk with preferences that were left open: what a request changes that it did not ask for."""
        slopes = [of.value for i, others in self.cross_talk.items() for j, of in others.items() if i != j]
        sizes = [abs(value) for value in slopes if value is not None]
        return sum(sizes) / len(sizes) if sizes else None


def exact_level(requested: Array, obtained: Array) -> float:
    """Share of answers (n,) whose obtained level, rounded, is the requested one."""
    return exact(requested, np.rint(obtained))


def within_one_level(requested: Array, obtained: Array) -> float:
    """Share of answers (n,) whose obtained level, rounded, is the requested one or next to it."""
    return _mean(np.abs(np.rint(obtained) - requested) <= 1)


def mae(requested: Array, obtained: Array) -> float:
    """Mean absolute error of levels (n,), in levels."""
    return _mean(np.abs(requested - obtained))


def slope(x: Array, y: Array) -> float:
    """Least-squares slope of y (n,) on x (n,); NaN where x is constant."""
    spread = ((x - x.mean()) ** 2).sum() if len(x) > 1 else 0.0
    return float(((x - x.mean()) * (y - y.mean())).sum() / spread) if spread > 0 else float("nan")


def left_open(requested: Array, obtained: Array) -> float:
    """`Controllability.left_open` of scores (n, m): a row requests one preference; NaN is what was not requested, or not judged."""
    pairs = itertools.permutations(range(requested.shape[1]), 2)
    known = [(i, j, np.isfinite(requested[:, i]) & np.isfinite(obtained[:, j])) for i, j in pairs]
    sizes = np.abs([slope(requested[rows, i], obtained[rows, j]) for i, j, rows in known])
    return _mean(sizes[np.isfinite(sizes)])


def scores_alone(rows: Sequence[Obtained], schema: PreferenceSchema) -> tuple[Array, Array]:
    """(requested, obtained) scores (n, m), NaN where there is none; rows that request several preferences, or a guard, are NaN."""

    def table(levels: Callable[[Obtained], Mapping[str, float]]) -> Array:
        scores = [[p.score(levels(row)[p.name]) if p.name in levels(row) else np.nan for p in schema.preferences] for row in rows]
        return np.array(scores, dtype=float).reshape(len(rows), len(schema.preferences))

    steered = {p.name for p in schema.preferences if not p.is_guard}
    return table(lambda row: row.targets if len(row.targets) == 1 and row.targets.keys() <= steered else {}), table(lambda row: row.levels)


def following(requested: Array, obtained: Array) -> float:
    """The Spearman correlation of levels (n,), 0 where requests differ and all answers are alike (`Control.followed`)."""
    alike = len(requested) > 2 and np.ptp(requested) > 0 and np.ptp(obtained) == 0
    return 0.0 if alike else spearman(requested, obtained)


def span(requested: Array, obtained: Array, low: int, high: int) -> float:
    """E[obtained | highest request] - E[obtained | lowest request]; NaN where one of them is missing, or they are the same."""
    if low == high:
        return float("nan")
    top, bottom = obtained[requested == high], obtained[requested == low]
    return float(top.mean() - bottom.mean()) if len(top) and len(bottom) else float("nan")


def spread(requested: Array, obtained: Array) -> float:
    """Standard deviation of the obtained levels (n,) under one request, in levels, mean over the requests; NaN where there is none."""
    return _mean(np.array([obtained[requested == level].std() for level in np.unique(requested)]))


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else float("nan")


def controllability(
    rows: Sequence[Obtained],
    schema: PreferenceSchema,
    held_out: list[Targets],
    bootstrap: int,
    seed: int,
    empty: Mapping[str, Sequence[bool]] | None = None,
) -> Controllability:
    """Everything of docs/method.md section 5 but fronts, with 95 % intervals by `bootstrap` resamples over prompts.

    `empty`: which of the rows tell nothing, by reason (`off_topic`, `restated`), as far as it was measured.
    """
    found = clauses(schema)
    errors: dict[bool, list[tuple[int, float]]] = {True: [], False: []}
    for row in rows:
        if len(row.targets) > 1:
            for name, level in row.targets.items():
                if name in row.levels and not schema[name].is_guard:
                    errors[is_held_out(Targets(row.targets), held_out)].append((row.prompt, abs(row.levels[name] - level)))
    return Controllability(
        preferences={p.name: _control(rows, p, bootstrap, seed) for p in schema.preferences},
        cross_talk={
            i.name: {j.name: _cross_talk(rows, i, j, bootstrap, seed) for j in schema.preferences}
            for i in schema.preferences
            if not i.is_guard
        },
        held_out=_grouped_mean(errors[True], bootstrap, seed),
        seen_pairs=_grouped_mean(errors[False], bootstrap, seed),
        answers=len(rows),
        truncated=_share([r.truncated for r in rows]),
        repeats_instruction=_share([found.search(r.text) is not None for r in rows]),
        **{reason: _share(of) for reason, of in (empty or {}).items()},
    )


def _share(of: Sequence[bool]) -> float:
    return sum(of) / len(of) if of else 0.0


def _grouped_mean(pairs: list[tuple[int, float]], bootstrap: int, seed: int) -> Interval:
    if not pairs:
        return Interval(value=None, low=None, high=None)
    groups, values = (np.array(c) for c in zip(*pairs, strict=True))
    return interval(_mean, (values,), resamples(groups, bootstrap, seed))


def _control(rows: Sequence[Obtained], preference: Preference, bootstrap: int, seed: int) -> Control:
    name = preference.name
    requesting = [r for r in rows if name in r.targets]
    judged = [r for r in requesting if name in r.levels]
    requested = np.array([r.targets[name] for r in judged], dtype=float)
    obtained = np.array([r.levels[name] for r in judged], dtype=float)
    words = np.array([len(r.text.split()) for r in judged], dtype=float)
    prompts = np.array([r.prompt for r in judged], dtype=int)
    draws = resamples(prompts, bootstrap, seed)
    levels = []
    for level in preference.requestable:
        at = requested == level
        levels.append(
            LevelMean(
                level=level,
                answers=int(at.sum()),
                obtained=interval(_mean, (obtained[at],), resamples(prompts[at], bootstrap, seed)),
                words=float(words[at].mean()) if at.any() else None,
            )
        )
    means = [m.obtained.value for m in levels if m.obtained.value is not None]
    low, high = preference.requestable[0], preference.requestable[-1]
    return Control(
        guard=preference.is_guard,
        answers=len(judged),
        missing=len(requesting) - len(judged),
        spearman=interval(spearman, (requested, obtained), draws),
        mae=interval(mae, (requested, obtained), draws),
        exact=interval(exact_level, (requested, obtained), draws),
        within_one=interval(within_one_level, (requested, obtained), draws),
        span=interval(partial(span, low=low, high=high), (requested, obtained), draws),
        violations=sum(b < a for a, b in itertools.pairwise(means)),
        levels=levels,
    )


def _cross_talk(rows: Sequence[Obtained], i: Preference, j: Preference, bootstrap: int, seed: int) -> Interval:
    used = [r for r in rows if i.name in r.targets and j.name in r.levels]
    # Where both are requested together their requests may be correlated by the grid, so only requests of i alone count.
    alone = [r for r in used if len(r.targets) == 1]
    used = alone or used
    x = np.array([i.score(r.targets[i.name]) for r in used], dtype=float)
    y = np.array([j.score(r.levels[j.name]) for r in used], dtype=float)
    return interval(slope, (x, y), resamples(np.array([r.prompt for r in used], dtype=int), bootstrap, seed))
