"""What answers earn: plain question and answer -> all heads, once -> the mapping under each request -> a number; and what people watch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from moslim_core.data.annotators import annotate
from moslim_core.policy.rollouts import Pairs
from moslim_core.policy.settings import PolicySettings
from moslim_core.preferences import PreferenceSchema, Targets
from moslim_core.reward.mapping import Mapped, RewardMapping
from moslim_core.reward.scorer import RewardScorer
from moslim_core.training.distributed import parts

ZERO_STD = 1e-4


class Judged(NamedTuple):
    """Of a step's rows: rewards (r,), standardised utilities (r, m) with NaN where not requested; figures by name, of what was drawn."""

    rewards: torch.Tensor
    utilities: torch.Tensor
    figures: dict[str, float]


class Rewards:
    """Scores answers under the requests of their rows, less what `policy` takes off or leaves out of it. (ours)

    `truncation_penalty`: what an answer loses that was cut off. `centred`: an answer's utility counts less its mean over the requests of
    its prompt. What is good under all of them alike teaches nothing about requests, and while the policy hardly heeds these it would be
    most of the gradient.
    """

    def __init__(self, scorer: RewardScorer, mapping: RewardMapping, policy: PolicySettings) -> None:
        self.scorer, self.mapping, self.policy = scorer, mapping, policy

    def __call__(
        self, questions: Sequence[str], texts: Sequence[str], cut: Sequence[bool], targets: Sequence[Targets], pairs: Pairs
    ) -> Judged:
        """`questions`, `texts`, `cut`: of n answers; `targets`: of the examples. The mapping's statistics are those of answers under the
        requests that they were drawn under, or of all where none were drawn. Raises RuntimeError where a reward is not finite."""
        probabilities = self.scorer(list(questions), list(texts))
        answers, requests = pairs.rollouts.tolist(), pairs.requests.tolist()
        lost = self.policy.truncation_penalty * np.array(cut, dtype=float)
        own = pairs.own.nonzero().flatten().tolist()
        try:
            measured = own or range(len(answers))
            first = self._mapped(probabilities, [answers[row] for row in measured], [targets[requests[row]] for row in measured], True)
            every = self._mapped(probabilities, answers, [targets[request] for request in requests], False)
        except ValueError as error:
            raise RuntimeError(f"no reward for an answer to {questions[0]!r}...: {error}") from error
        names = self.scorer.schema.names
        lost_by = lost[answers]
        figures: dict[str, float] = {}
        if own:
            groups = [requests[row] for row in own]
            mine = [answers[row] for row in own]
            drawn = _Drawn(
                {name: p[mine] for name, p in probabilities.items()},
                first.utilities,
                first.standardised,
                first.rewards - lost[mine],
                [targets[g] for g in groups],
                groups,
                [texts[n] for n in mine],
            )
            figures = _figures(self.scorer.schema, parts(drawn))
        rewards, standardised = every.rewards, every.standardised
        if self.policy.centred:
            standardised = self._centred(standardised, [targets[request] for request in requests], pairs)
            rewards = self.mapping.aggregated(standardised, [targets[request] for request in requests])
        utilities = np.stack([standardised[name] for name in names], axis=1) - lost_by[:, None]
        return Judged(torch.tensor(rewards - lost_by).float(), torch.tensor(utilities).float(), figures)

    def _centred(self, standardised: dict[str, np.ndarray], targets: Sequence[Targets], pairs: Pairs) -> dict[str, np.ndarray]:
        """Utilities (r,) by preference, each less its mean over the requests of the answer's table, where these want different levels."""
        centred = {}
        for name, values in standardised.items():
            levels = torch.tensor([float(t.get(name, 0)) for t in targets])
            centred[name] = pairs.by_table(apart, torch.from_numpy(values), levels).numpy()
        return centred

    def beginnings(
        self, questions: Sequence[str], texts: Sequence[Sequence[str]], targets: Sequence[Targets], pairs: Pairs
    ) -> torch.Tensor:
        """Rewards (r, k) of answers as they began, texts (n, k), under the requests of their rows."""
        # Most answers end before they may, and have the same text at several places.
        distinct = {pair: n for n, pair in enumerate(dict.fromkeys((q, t) for q, row in zip(questions, texts, strict=True) for t in row))}
        probabilities = self.scorer([q for q, _ in distinct], [t for _, t in distinct])
        places = np.array([[distinct[q, t] for t in row] for q, row in zip(questions, texts, strict=True)])[pairs.rollouts.numpy()]
        row_targets = [targets[request] for request in pairs.requests.tolist() for _ in range(places.shape[1])]
        mapped = self._mapped(probabilities, places.ravel().tolist(), row_targets, False)
        return torch.tensor(mapped.rewards.reshape(places.shape)).float()

    def _mapped(self, probabilities: dict[str, np.ndarray], answers: Sequence[int], targets: Sequence[Targets], measure: bool) -> Mapped:
        rows = list(answers)
        return self.mapping({name: p[rows] for name, p in probabilities.items()}, list(targets), measure=measure)


def apart(utilities: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Utilities (a, t) of a answers under t requests, less each answer's mean over them; as they are where all want one level of it.

    `levels` (a, t): 0 where the preference is not requested, and the utility is NaN.
    """
    requested = levels > 0
    middle = utilities.nan_to_num().sum(dim=1) / requested.sum(dim=1).clamp(min=1)
    contested = levels.amax(dim=1) > levels.where(requested, torch.inf).amin(dim=1)
    return utilities - torch.where(contested, middle, 0.0).unsqueeze(1)


class _Drawn(NamedTuple):
    """What one process drew, each under its own request."""

    probabilities: dict[str, np.ndarray]
    utilities: dict[str, np.ndarray]
    standardised: dict[str, np.ndarray]
    rewards: np.ndarray
    targets: list[Targets]
    groups: list[int]
    texts: list[str]


def _figures(schema: PreferenceSchema, drawn: Sequence[_Drawn]) -> dict[str, float]:
    """Of all processes, by this project's names (docs/method.md section 4)."""
    rewards = np.concatenate([part.rewards for part in drawn])
    wanted = [t for part in drawn for t in part.targets]
    texts = [t for part in drawn for t in part.texts]
    groups = np.array([f"{rank}/{group}" for rank, part in enumerate(drawn) for group in part.groups])
    figures: dict[str, Any] = {
        "reward": rewards.mean(),
        "reward_std": rewards.std(ddof=1) if len(rewards) > 1 else 0.0,
        "zero_variance": zero_variance(rewards, groups),
    }
    for preference in schema.preferences:
        name = preference.name
        utilities, standardised = (np.concatenate([getattr(part, kind)[name] for part in drawn]) for kind in ("utilities", "standardised"))
        levels = np.array([t.get(name, 0) for t in wanted])
        active = levels > 0
        if active.any():
            figures[f"utility/{name}"] = utilities[active].mean()
            figures[f"standardised/{name}"] = standardised[active].mean()
            figures[f"zero_variance/{name}"] = zero_variance(utilities[active], groups[active])
            if preference.annotator is not None:
                # Nothing learns from it: where it parts from the utility, the reward model is being gamed.
                off = [abs(annotate(texts[i], preference.annotator) - levels[i]) for i in np.flatnonzero(active)]
                figures[f"judged/{name}"] = 1 - np.mean(off) / (preference.k - 1)
        probabilities = np.concatenate([part.probabilities[name] for part in drawn])
        expected = probabilities @ np.arange(1, preference.k + 1)
        for level in np.unique(levels[active]):
            figures[f"expected_level/{name}/{level}"] = expected[levels == level].mean()
            figures[f"zero_variance/{name}/{level}"] = zero_variance(utilities[levels == level], groups[levels == level])
    return {name: float(value) for name, value in figures.items() if value is not None}


def zero_variance(values: np.ndarray, group: np.ndarray) -> float | None:
    """Share of the groups of two values or more whose values do not differ: they give this preference no gradient. None without such."""
    by_group = defaultdict(list)
    for value, key in zip(values, group, strict=True):
        by_group[key].append(value)
    still = [np.std(v) < ZERO_STD for v in by_group.values() if len(v) > 1]
    return float(np.mean(still)) if still else None
