"""Class probabilities and targets -> one scalar reward (docs/method.md section 3): small pure functions behind `RewardMapping`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moslim_core.preferences import PreferenceSchema, Targets
from moslim_core.registry import utility
from moslim_core.reward.settings import MappingSettings

Array = np.ndarray

PROBABILITY_FLOOR = 1e-6
STD_FLOOR = 1e-3
CLIP = 5.0
MIN_ROWS = 8
MOMENTUM = 0.99


# --- utilities: probabilities (n, K), target levels (n,) in 1..K -> (n,) -------------------------------------------------


@utility("target_probability")
def target_probability(p: Array, target: Array) -> Array:
    """p[t] (paper)."""
    return p[np.arange(len(p)), target - 1]


@utility("log_probability")
def log_probability(p: Array, target: Array) -> Array:
    """log max(p[t], 1e-6) (ours; with sum aggregation and no standardisation, SteerLM-2's target)."""
    return np.log(np.maximum(target_probability(p, target), PROBABILITY_FLOOR))


@utility("ordinal")
def ordinal(p: Array, target: Array) -> Array:
    """1 - E_{c~p}|c - t| / (K - 1), in [0, 1] (ours)."""
    k = p.shape[1]
    distance = np.abs(np.arange(1, k + 1)[None, :] - target[:, None])
    return 1.0 - (p * distance).sum(axis=1) / (k - 1)


@utility("within_sample_z")
def within_sample_z(p: Array, target: Array) -> Array:
    """(p[t] - mean_c p) / max(std_c p, 1e-3), ddof 0 (a reading of the paper, for the ablation)."""
    return (target_probability(p, target) - p.mean(axis=1)) / np.maximum(p.std(axis=1), STD_FLOOR)


# --- aggregations: standardised utilities, active mask and weights, each (n, m) -> (n,) ----------------------------------


def active_mean(z: Array, mask: Array, weights: Array) -> Array:
    """sum m w z / sum m w; 0 where nothing is active (ours)."""
    total = (mask * weights).sum(axis=1)
    return np.divide((mask * weights * z).sum(axis=1), total, out=np.zeros(len(z)), where=total > 0)


def weighted_sum(z: Array, mask: Array, weights: Array) -> Array:
    """sum m w z (ours)."""
    return (mask * weights * z).sum(axis=1)


def paper_mean(z: Array, mask: Array, weights: Array) -> Array:
    """(1/k) sum m z, k = all preferences of the schema; weights play no part (paper)."""
    return (mask * z).sum(axis=1) / z.shape[1]


AGGREGATIONS: dict[str, Callable[[Array, Array, Array], Array]] = {
    "active_mean": active_mean,
    "sum": weighted_sum,
    "paper": paper_mean,
}


# --- standardisation ------------------------------------------------------------------------------------------------------


@dataclass
class Moments:
    """Mean and variance (ddof 0) of a utility, from `rows` rows."""

    mean: float
    variance: float
    rows: int

    @classmethod
    def of(cls, values: Array) -> Moments:
        """Of utilities (n,), n > 0."""
        return cls(float(values.mean()), float(values.var()), len(values))

    def standardise(self, values: Array) -> Array:
        """clip((u - mean) / max(std, 1e-3), -5, 5)."""
        return np.clip((values - self.mean) / max(self.variance**0.5, STD_FLOOR), -CLIP, CLIP)


@dataclass
class Statistics:
    """Moments per (preference, requested level), and pooled per preference where a level has fewer than 8 rows."""

    by_level: dict[tuple[str, int], Moments] = field(default_factory=dict)
    pooled: dict[str, Moments] = field(default_factory=dict)

    @classmethod
    def of(cls, utilities: Mapping[str, Array], targets: Mapping[str, Array]) -> Statistics:
        """Of utilities {preference: (n,)} over the rows that request it (target level > 0)."""
        result = cls()
        for name, values in utilities.items():
            active = targets[name] > 0
            if active.any():
                result.pooled[name] = Moments.of(values[active])
            for level in np.unique(targets[name][active]):
                result.by_level[name, int(level)] = Moments.of(values[targets[name] == level])
        return result

    def moments(self, name: str, level: int) -> Moments | None:
        """Of a level where it has rows enough, else of its preference; None where neither was measured."""
        moments = self.by_level.get((name, level))
        return moments if moments is not None and moments.rows >= MIN_ROWS else self.pooled.get(name)

    def blend(self, new: Statistics) -> None:
        """Exponential moving average with momentum 0.99; a plain average over rows until that gives the newest no more weight.

        With a fixed momentum the few rows of a rare level's first batch would count for hundreds of steps. Rows add up.
        """

        def ema(old: Moments | None, latest: Moments) -> Moments:
            if old is None:
                return latest
            # The second moment is averaged, so that drifting means count as spread.
            keep = min(MOMENTUM, old.rows / (old.rows + latest.rows))
            mean = keep * old.mean + (1 - keep) * latest.mean
            second = keep * (old.variance + old.mean**2) + (1 - keep) * (latest.variance + latest.mean**2)
            return Moments(mean, max(second - mean**2, 0.0), old.rows + latest.rows)

        for key, latest in new.by_level.items():
            self.by_level[key] = ema(self.by_level.get(key), latest)
        for name, latest in new.pooled.items():
            self.pooled[name] = ema(self.pooled.get(name), latest)

    def state(self) -> dict[str, Any]:
        """What was measured so far, as JSON has it."""
        return {
            "by_level": [[*key, m.mean, m.variance, m.rows] for key, m in self.by_level.items()],
            "pooled": [[name, m.mean, m.variance, m.rows] for name, m in self.pooled.items()],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Statistics:
        """What `state` gave."""
        return cls(
            {(name, level): Moments(*rest) for name, level, *rest in state["by_level"]},
            {name: Moments(*rest) for name, *rest in state["pooled"]},
        )


@dataclass
class Mapped:
    """Rewards (n,) with what they were made of: utilities and standardised utilities {preference: (n,)}, NaN where not requested."""

    rewards: Array
    utilities: dict[str, Array]
    standardised: dict[str, Array]


class RewardMapping:
    """The mapping of one policy run: a utility, a standardisation with its statistics, an aggregation.

    `gather` makes the (utilities, target levels) of all processes out of those of one, so that statistics are global.
    """

    def __init__(
        self,
        schema: PreferenceSchema,
        settings: MappingSettings,
        gather: Callable[[Array], Array] = lambda local: local,
    ) -> None:
        for name in settings.weights:
            schema[name]
        self.schema, self.settings, self.gather = schema, settings, gather
        self.statistics = Statistics()

    def __call__(self, probabilities: Mapping[str, Array], targets: Sequence[Targets], measure: bool = True) -> Mapped:
        """Rewards for probabilities {preference: (n, K)} and n targets. Raises ValueError on a probability that is not finite.

        With `measure` off, statistics over batches stay as they are.
        """
        levels = self._levels(targets)
        utilities = self._utilities(probabilities, levels)
        earned = self._earned(utilities)
        if measure and self.settings.standardisation in ("batch", "running"):
            latest = self._measure(earned, levels)
            if self.settings.standardisation == "batch":
                self.statistics = latest
            else:
                self.statistics.blend(latest)
        elif self.settings.standardisation == "reference" and not self.statistics.pooled:
            raise ValueError("standardisation 'reference' needs fit_reference on rollouts of the starting policy first")
        names = self.schema.names
        standardised = {name: self._standardise(name, earned[name], levels[name]) for name in names}
        return Mapped(
            self.aggregated(standardised, targets),
            {n: np.where(levels[n] > 0, utilities[n], np.nan) for n in names},
            {n: np.where(levels[n] > 0, standardised[n], np.nan) for n in names},
        )

    def aggregated(self, standardised: Mapping[str, Array], targets: Sequence[Targets]) -> Array:
        """Rewards (n,) of standardised utilities {preference: (n,)}. Raises ValueError on one that is not finite."""
        names, levels = self.schema.names, self._levels(targets)
        mask = np.stack([levels[n] > 0 for n in names], axis=1).astype(float)
        z = np.stack([standardised[n] for n in names], axis=1)
        weights = np.array([[self.settings.weights.get(n, 1.0) * t.weight(n) for n in names] for t in targets])
        rewards = AGGREGATIONS[self.settings.aggregation](np.where(mask > 0, z, 0.0), mask, weights)
        if not np.isfinite(rewards).all():
            raise ValueError("the mapping made a reward that is not finite")
        return rewards

    def fit_reference(self, probabilities: Mapping[str, Array], targets: Sequence[Targets]) -> None:
        """Measure the statistics once, on n rollouts of the starting policy: probabilities {preference: (n, K)}. They stay from then on."""
        levels = self._levels(targets)
        self.statistics = self._measure(self._earned(self._utilities(probabilities, levels)), levels)

    def state(self) -> dict[str, Any]:
        """JSON data for the checkpoint and for the saved policy."""
        return self.statistics.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.statistics = Statistics.from_state(state)

    def _levels(self, targets: Sequence[Targets]) -> dict[str, Array]:
        """{preference: (n,) requested level, 0 where unspecified}."""
        return {name: np.array([t.get(name, 0) for t in targets], dtype=int) for name in self.schema.names}

    def _utilities(self, probabilities: Mapping[str, Array], levels: Mapping[str, Array]) -> dict[str, Array]:
        fit = utility[self.settings.utility]
        result = {}
        for name in self.schema.names:
            p = np.asarray(probabilities[name], dtype=float)
            if not np.isfinite(p).all():
                row = int(np.argwhere(~np.isfinite(p))[0][0])
                raise ValueError(f"the {name} head gave a probability that is not finite for row {row}")
            # Rows that do not request the preference are computed for level 1 and masked later.
            result[name] = fit(p, np.maximum(levels[name], 1))
        return result

    def _earned(self, utilities: Mapping[str, Array]) -> dict[str, Array]:
        """Utilities as they count: of a guard no more than is enough, where that is said."""
        if self.settings.guard_enough == 1:
            return dict(utilities)
        guards = {p.name for p in self.schema.preferences if p.is_guard}
        return {name: np.minimum(u, self.settings.guard_enough) if name in guards else u for name, u in utilities.items()}

    def _measure(self, utilities: Mapping[str, Array], levels: Mapping[str, Array]) -> Statistics:
        names = self.schema.names
        both = np.stack([utilities[n] for n in names] + [levels[n].astype(float) for n in names], axis=1)
        both = self.gather(both)
        count = len(names)
        return Statistics.of(
            {n: both[:, i] for i, n in enumerate(names)},
            {n: both[:, count + i].astype(int) for i, n in enumerate(names)},
        )

    def _standardise(self, name: str, values: Array, levels: Array) -> Array:
        if self.settings.standardisation == "none":
            return values
        result = np.zeros_like(values)
        for level in np.unique(levels[levels > 0]):
            moments = self.statistics.moments(name, int(level))
            rows = levels == level
            result[rows] = moments.standardise(values[rows]) if moments else 0.0
        return result
