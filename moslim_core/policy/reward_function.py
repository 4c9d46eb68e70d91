"""The one reward callable that every optimiser shares: plain question and answer -> all heads -> mapping -> one number.

Libraries order completions differently, so nothing here is found by position: question, targets and group travel with each row.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch

from moslim_core.data.annotators import annotate
from moslim_core.policy.conditioning import load_targets
from moslim_core.policy.relabelling import Pairs
from moslim_core.preferences import Targets
from moslim_core.reward.mapping import RewardMapping
from moslim_core.reward.metrics import expected_level
from moslim_core.reward.scorer import RewardScorer

ZERO_STD = 1e-4


class PolicyReward:
    """Scores completions for the targets in their row and logs, per preference, what the reward was made of."""

    __name__ = "reward"

    def __init__(
        self,
        scorer: RewardScorer,
        mapping: RewardMapping,
        truncation_penalty: float = 0.0,
        end_tokens: Collection[int] = (),
        read: Callable[[list[int]], str] | None = None,
    ) -> None:
        """`read`: token ids -> what was said, thoughts left out; without it answers are scored as the trainer decodes them."""
        self.scorer, self.mapping = scorer, mapping
        self.truncation_penalty, self.end_tokens = truncation_penalty, end_tokens
        self.read = read
        # When the first call since `seconds` was set to 0 began, and how long all of them took.
        self.started = self.seconds = 0.0
        # Of the last call: {preference: (n, K)} probabilities, what each row asked for, and what truncated rows lose, (n,).
        self.probabilities: dict[str, np.ndarray] = {}
        self.wanted: list[Targets] = []
        self.penalties = np.zeros(0)
        # Of the last call: standardised utilities {preference: (n,)}, NaN where not requested.
        self.standardised: dict[str, np.ndarray] = {}

    def __call__(
        self,
        completions: Sequence[Any],
        question: Sequence[str],
        targets: Sequence[str],
        group: Sequence[int],
        completion_ids: Sequence[Sequence[int]] = (),
        log_metric: Callable[[str, float], None] = lambda name, value: None,
        **_: Any,
    ) -> list[float]:
        """One reward per completion (text or one-message list). Raises RuntimeError naming the row where one is not finite."""
        started = time.monotonic()
        if not self.seconds:
            self.started = started
        if self.read is not None and completion_ids:
            texts = [self.read(list(ids)) for ids in completion_ids]
        else:
            texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        schema = self.scorer.schema
        wanted = self.wanted = [load_targets(t, schema) for t in targets]
        probabilities = self.probabilities = self.scorer(list(question), texts)
        try:
            mapped = self.mapping(probabilities, wanted)
        except ValueError as error:
            raise RuntimeError(f"no reward for a rollout of prompt {question[0]!r}...: {error}") from error
        self.standardised = mapped.standardised
        cut = np.array([bool(ids) and ids[-1] not in self.end_tokens for ids in completion_ids] or [False] * len(texts))
        self.penalties = self.truncation_penalty * cut
        for preference in schema.preferences:
            name = preference.name
            utilities = mapped.utilities[name]
            active = ~np.isnan(utilities)
            if active.any():
                log_metric(f"utility/{name}", float(utilities[active].mean()))
                log_metric(f"standardised/{name}", float(mapped.standardised[name][active].mean()))
                log_metric(f"zero_variance/{name}", zero_variance(utilities[active], np.array(group)[active]))
                if preference.annotator is not None:
                    # Nothing learns from it: where it parts from the utility, the reward model is being gamed.
                    off = [abs(annotate(texts[i], preference.annotator) - wanted[i][name]) for i in np.flatnonzero(active)]
                    log_metric(f"judged/{name}", 1 - float(np.mean(off)) / (preference.k - 1))
            expected = expected_level(probabilities[name])
            for level in preference.requestable:
                rows = [i for i, t in enumerate(wanted) if t.get(name) == level]
                if rows:
                    log_metric(f"expected_level/{name}/{level}", float(expected[rows].mean()))
                    log_metric(f"zero_variance/{name}/{level}", zero_variance(utilities[rows], np.array(group)[rows]))
        self.seconds += time.monotonic() - started
        return (mapped.rewards - self.penalties).tolist()

    def under(self, pairs: Pairs) -> torch.Tensor:
        """Rewards (n * t,) of the last call's answers under each request of their prompts; the mapping's statistics stay."""
        answers = pairs.answers.numpy()
        mapped = self.mapping(
            {name: p[answers] for name, p in self.probabilities.items()},
            [self.wanted[row] for row in pairs.requests.tolist()],
            measure=False,
        )
        return torch.from_numpy(mapped.rewards - self.penalties[answers])

    def beginnings(self, pairs: Pairs, questions: Sequence[str], texts: Sequence[Sequence[str]]) -> torch.Tensor:
        """Rewards (n * t, k) of the last call's answers as they began, texts (n, k), under each request of their prompts."""
        started = time.monotonic()
        # Most answers end before they may, and have the same text at several places.
        distinct = {
            pair: row for row, pair in enumerate(dict.fromkeys((q, t) for q, row in zip(questions, texts, strict=True) for t in row))
        }
        found = self.scorer([q for q, _ in distinct], [t for _, t in distinct])
        rows = np.array([[distinct[q, t] for t in row] for q, row in zip(questions, texts, strict=True)])[pairs.answers.numpy()]
        wanted = [self.wanted[row] for row in pairs.requests.tolist() for _ in range(rows.shape[1])]
        mapped = self.mapping({name: p[rows.ravel()] for name, p in found.items()}, wanted, measure=False)
        self.seconds += time.monotonic() - started
        return torch.from_numpy(mapped.rewards.reshape(rows.shape))

    def parts(self) -> list[Callable[..., list[float | None]]]:
        """One callable per preference: its standardised utility per completion, None where it is not requested.

        For a trainer that normalises preferences one by one. The first scores; the others, called with the same rows right after
        it, give what it found.
        """

        def part(name: str, scores: bool) -> Callable[..., list[float | None]]:
            def call(completions: Sequence[Any], **columns: Any) -> list[float | None]:
                if scores:
                    self(completions, **columns)
                return [None if np.isnan(v) else float(v - lost) for v, lost in zip(self.standardised[name], self.penalties, strict=True)]

            call.__name__ = name
            return call

        return [part(name, scores=index == 0) for index, name in enumerate(self.scorer.schema.names)]


def zero_variance(values: np.ndarray, group: np.ndarray) -> float:
    """Share of groups whose values do not differ: they give this preference no gradient."""
    by_group = defaultdict(list)
    for value, key in zip(values, group, strict=True):
        by_group[key].append(value)
    return float(np.mean([np.std(v) < ZERO_STD for v in by_group.values()]))
