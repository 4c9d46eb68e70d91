"""One setting at several values, or several systems, under the same seeds: means over seeds, and paired differences. (ours)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel
from scipy.stats import t

from moslim_core.evaluation.figure_kinds import Kind, kind_of
from moslim_core.preferences import PreferenceSchema
from moslim_core.statistics.bootstrap import Interval, finite

# Two seeds have an interval 13 times their standard error wide: not worth showing.
MIN_SEEDS = 3


class Measured(BaseModel):
    """The figures of one run, and the intervals over its prompts of those that have one. `costs`: counts and seconds, by name."""

    variant: str
    seed: int
    figures: dict[str, float]
    seconds: float
    over_prompts: dict[str, Interval] = {}
    costs: dict[str, float] = {}


class Figure(BaseModel):
    """One figure of one variant over its seeds, or with one seed over its prompts.

    `difference`: to the first variant, paired by seed; null for that one. `over_prompts`: the mean of these very runs, whose interval
    says nothing of what other seeds would give; null where there is none.
    """

    by_seed: dict[int, float]
    mean: Interval
    difference: Interval | None
    over_prompts: Interval | None = None


class Given(BaseModel):
    """An answer as it is shown, and the level that the judge gave it; null where it gave none."""

    text: str
    obtained: float | None


class SampleRequest(BaseModel):
    """`level` of `preference`, and each variant's answer to the request for it."""

    preference: str
    level: int
    answers: dict[str, Given]


class SamplePrompt(BaseModel):
    """One evaluation prompt of one seed under several requests."""

    prompt: str
    seed: int
    preferences: PreferenceSchema
    requests: list[SampleRequest]


class Comparison(BaseModel):
    """`figures[name][variant]`, in the order of the variants; means per run: `seconds` of work and `costs[name][variant]`.

    `notes`: sentences that say how the variants were compared. `runs`: what all of it was made from, a run per variant and seed.
    `missing`: a sentence on what has still to come. `about`: what a variant is, where its name does not say it.
    """

    key: str
    variants: list[str]
    seeds: list[int]
    figures: dict[str, dict[str, Figure]]
    seconds: dict[str, float]
    costs: dict[str, dict[str, float]] = {}
    notes: list[str] = []
    runs: list[Measured] = []
    missing: str = ""
    about: dict[str, str] = {}
    sample: SamplePrompt | None = None

    @property
    def intervals(self) -> str:
        """What the intervals are over."""
        return "seeds" if len(self.seeds) > 1 else "prompts"


def t_interval(values: Sequence[float], kind: Kind | None = None) -> Interval:
    """The mean, with its 95 % interval by Student's t, within what figures of its kind can be; no bounds from fewer than 3 values."""
    array = np.asarray(values, dtype=float)
    mean = finite(float(array.mean())) if len(array) else None
    if mean is None or len(array) < MIN_SEEDS:
        return Interval(value=mean, low=None, high=None)
    half = float(t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    low, high = (kind.low, kind.high) if kind else (None, None)
    bounds = (mean - half if low is None else max(low, mean - half), mean + half if high is None else min(high, mean + half))
    return Interval(value=mean, low=bounds[0], high=bounds[1])


def compare(
    key: str,
    runs: Sequence[Measured],
    notes: Sequence[str] = (),
    pooled: Mapping[str, Mapping[str, Interval]] | None = None,
    missing: str = "",
    about: Mapping[str, str] | None = None,
    sample: SamplePrompt | None = None,
) -> Comparison:
    """Of runs in the order of their variants. A figure that a run lacks is left out of that variant's mean.

    `pooled[variant][name]`: means over the runs of a variant with intervals over the prompts that these share (`pooling`).
    """
    variants = list(dict.fromkeys(run.variant for run in runs))
    names = list(dict.fromkeys(name for run in runs for name in run.figures))
    values = {
        name: {v: {r.seed: r.figures[name] for r in runs if r.variant == v and name in r.figures} for v in variants} for name in names
    }
    return Comparison(
        key=key,
        variants=variants,
        seeds=sorted({run.seed for run in runs}),
        figures={
            name: {
                v: _figure(
                    kind_of(name),
                    of[v],
                    of[variants[0]] if v != variants[0] else None,
                    (pooled or {}).get(v, {}).get(name),
                )
                for v in variants
            }
            for name, of in values.items()
        },
        seconds={v: float(np.mean([run.seconds for run in runs if run.variant == v])) for v in variants},
        costs={
            name: {v: float(np.mean([run.costs[name] for run in runs if run.variant == v])) for v in variants}
            for name in dict.fromkeys(name for run in runs for name in run.costs)
        },
        notes=list(notes),
        runs=list(runs),
        missing=missing,
        about={variant: about[variant] for variant in variants if about and variant in about},
        sample=sample,
    )


def _figure(kind: Kind, by_seed: dict[int, float], first: dict[int, float] | None, over_prompts: Interval | None) -> Figure:
    shared = [seed for seed in by_seed if seed in first] if first is not None else []
    return Figure(
        by_seed=by_seed,
        mean=over_prompts if over_prompts and len(by_seed) == 1 else t_interval(list(by_seed.values()), kind),
        difference=t_interval([by_seed[s] - first[s] for s in shared]) if first is not None else None,
        over_prompts=over_prompts,
    )
