"""What answers earn: plain question and answer -> all heads, once -> the mapping under each request -> a number; and what people watch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from moslim_core.data.annotators import annotate
from moslim_core.policy.cross_talk import CrossTalk
from moslim_core.policy.penalties import Penalties
from moslim_core.policy.rollouts import Pairs
from moslim_core.policy.settings import PolicySettings
from moslim_core.preferences import Targets
from moslim_core.reward.mapping import Mapped, RewardMapping
from moslim_core.reward.metrics import expected_level
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

    Answers lose what penalties.py says. One that repeats its instruction earns what the worst one under the same request does, less the
    truncation penalty: to the heads `academic words` are academic words. `cross_talk_penalty`: what an answer loses for what requests
    move that they leave open (cross_talk.py). `centred`: an answer's utility counts less its mean over the requests of its prompt. What
    is good under all of them alike teaches nothing about requests, and while the policy hardly heeds these it would be most of the
    gradient.
    """

    def __init__(self, scorer: RewardScorer, mapping: RewardMapping, policy: PolicySettings, cache: Path, device: torch.device) -> None:
        """`cache`: where fetched models are kept; `device`: where the topic's encoder goes. Raises UserError without it."""
        self.scorer, self.mapping, self.policy = scorer, mapping, policy
        self.penalties = Penalties(policy, cache, device)
        self.cross_talk = CrossTalk(scorer.schema)

    def __call__(
        self,
        questions: Sequence[str],
        texts: Sequence[str],
        unfinished: Sequence[bool],
        repeated: Sequence[bool],
        targets: Sequence[Targets],
        pairs: Pairs,
    ) -> Judged:
        """`questions`, `texts`, `unfinished` (whether it was cut off, or ends as no rated answer does), `repeated` (whether it repeats its
        instruction): of n answers; `targets`: of the examples.

        The mapping's statistics are those of answers under the requests that they were drawn under, and of rated ones under all.
        Raises RuntimeError where a reward is not finite.
        """
        probabilities = self.scorer(list(questions), list(texts))
        answers, wanted = pairs.rollouts.numpy(), [targets[request] for request in pairs.requests.tolist()]
        own = pairs.own.nonzero().flatten().tolist()
        measured = (pairs.home == torch.arange(len(pairs.home))).nonzero().flatten().tolist()
        try:
            self._mapped(probabilities, answers[measured], [wanted[row] for row in measured], True)
            every = self._mapped(probabilities, answers, wanted, False)
        except ValueError as error:
            raise RuntimeError(f"no reward for an answer to {questions[0]!r}...: {error}") from error
        of_answers, empty = self.penalties(questions, texts, unfinished)
        lost = of_answers[answers]
        rewards, standardised = every.rewards, every.standardised
        first = Mapped(rewards[own], _of(every.utilities, own), _of(standardised, own))
        if self.policy.centred:
            levels = {name: torch.tensor([float(t.get(name, 0)) for t in wanted]) for name in standardised}
            standardised = {n: pairs.by_table(apart, torch.from_numpy(u), levels[n]).numpy() for n, u in standardised.items()}
            rewards = self.mapping.aggregated(standardised, wanted)
        if any(repeated):
            worst = pairs.by_table(lambda r: r.amin(dim=0, keepdim=True).expand_as(r), torch.from_numpy(rewards)).numpy()
            lost = np.where(np.array(repeated)[answers], rewards - worst + self.policy.truncation_penalty, lost)
        figures = self._figures(probabilities, first, texts, targets, pairs, own, lost, empty)
        if self.policy.cross_talk_penalty:
            self.cross_talk.measure(_of(probabilities, answers[own]), [wanted[row] for row in own])
            lost = lost + self.policy.cross_talk_penalty * self.cross_talk.losses(_of(probabilities, answers), wanted)
            figures |= self.cross_talk.figures()
        utilities = np.stack(list(standardised.values()), axis=1) - lost[:, None]
        return Judged(torch.tensor(rewards - lost).float(), torch.tensor(utilities).float(), figures)

    def state(self) -> dict[str, Any]:
        """What was measured so far, as JSON has it."""
        return {"mapping": self.mapping.state(), "cross_talk": self.cross_talk.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.mapping.load_state(state["mapping"])
        self.cross_talk.load_state(state["cross_talk"])

    def beginnings(
        self, questions: Sequence[str], texts: Sequence[Sequence[str]], targets: Sequence[Targets], pairs: Pairs
    ) -> torch.Tensor:
        """Rewards (r, k) of answers as they began, texts (n, k), under the requests of their rows."""
        # Most answers end before they may, and have the same text at several places.
        distinct = {pair: n for n, pair in enumerate(dict.fromkeys((q, t) for q, row in zip(questions, texts, strict=True) for t in row))}
        probabilities = self.scorer([q for q, _ in distinct], [t for _, t in distinct])
        places = np.array([[distinct[q, t] for t in row] for q, row in zip(questions, texts, strict=True)])[pairs.rollouts.numpy()]
        row_targets = [targets[request] for request in pairs.requests.tolist() for _ in range(places.shape[1])]
        mapped = self._mapped(probabilities, places.ravel(), row_targets, False)
        return torch.tensor(mapped.rewards.reshape(places.shape)).float()

    def _mapped(self, probabilities: dict[str, np.ndarray], answers: np.ndarray, targets: list[Targets], measure: bool) -> Mapped:
        return self.mapping(_of(probabilities, answers), targets, measure=measure)

    def _figures(
        self,
        probabilities: dict[str, np.ndarray],
        mapped: Mapped,
        texts: Sequence[str],
        targets: Sequence[Targets],
        pairs: Pairs,
        own: list[int],
        lost: np.ndarray,
        empty: Mapping[str, np.ndarray],
    ) -> dict[str, float]:
        """Of what all processes drew. `own`: its rows under the requests that it was drawn under; `mapped`: of these; `lost` (r,);
        `empty`: (n,) each, of answers, which of them tell nothing, by reason."""
        answers, requests = pairs.rollouts[own].tolist(), pairs.requests[own].tolist()
        columns: dict[str, Any] = {"reward": mapped.rewards - lost[own], "group": np.array(requests, dtype=int)}
        columns |= {reason: of[answers] for reason, of in empty.items()}
        for preference in self.scorer.schema.preferences:
            name = preference.name
            levels = np.array([targets[r].get(name, 0) for r in requests], dtype=int)
            columns |= {f"level/{name}": levels, f"utility/{name}": mapped.utilities[name]}
            columns[f"standardised/{name}"] = mapped.standardised[name]
            columns[f"expected/{name}"] = expected_level(probabilities[name][answers])
            if preference.annotator is not None:
                # Nothing learns from it: where it parts from the utility, the reward model is being gamed.
                off = [abs(annotate(texts[n], preference.annotator) - level) for n, level in zip(answers, levels, strict=True)]
                columns[f"judged/{name}"] = 1 - np.array(off, dtype=float) / (preference.k - 1)
        # Also where this process drew nothing: the others wait for it.
        everyone = parts(columns)
        of = {name: np.concatenate([part[name] for part in everyone]) for name in columns}
        # Each process counts its requests from 0.
        of["group"] = of["group"] * len(everyone) + np.repeat(range(len(everyone)), [len(part["group"]) for part in everyone])
        return figures(of, self.scorer.schema.names) if len(of["reward"]) else {}


def _of(columns: Mapping[str, np.ndarray], rows: np.ndarray | list[int]) -> dict[str, np.ndarray]:
    return {name: values[rows] for name, values in columns.items()}


def apart(utilities: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Utilities (a, t) of a answers under t requests, less each answer's mean over them; as they are where all want one level of it.

    `levels` (a, t): 0 where the preference is not requested, and the utility is NaN.
    """
    requested = levels > 0
    middle = utilities.nan_to_num().sum(dim=1) / requested.sum(dim=1).clamp(min=1)
    contested = levels.amax(dim=1) > levels.where(requested, torch.inf).amin(dim=1)
    return utilities - torch.where(contested, middle, 0.0).unsqueeze(1)


def figures(of: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, float]:
    """By this project's names (docs/method.md section 4), of columns (n,) of n answers; `level/NAME` is 0 where it is not requested."""
    rewards, groups = of["reward"], of["group"]
    told = {"reward": rewards.mean(), "reward_std": rewards.std(ddof=1) if len(rewards) > 1 else 0.0}
    told["zero_variance"] = zero_variance(rewards, groups)
    told |= {name: of[name].mean() for name in ("restated", "off_topic") if name in of}
    for name in names:
        levels, utilities = of[f"level/{name}"], of[f"utility/{name}"]
        active = levels > 0
        if active.any():
            kinds = [f"{kind}/{name}" for kind in ("utility", "standardised", "judged")]
            told |= {kind: of[kind][active].mean() for kind in kinds if kind in of}
            told[f"zero_variance/{name}"] = zero_variance(utilities[active], groups[active])
        for level in np.unique(levels[active]):
            told[f"expected_level/{name}/{level}"] = of[f"expected/{name}"][levels == level].mean()
            told[f"zero_variance/{name}/{level}"] = zero_variance(utilities[levels == level], groups[levels == level])
    return {name: float(value) for name, value in told.items() if value is not None}


def zero_variance(values: np.ndarray, group: np.ndarray) -> float | None:
    """Share of the groups of two of the values (n,) or more that do not differ: such give no gradient. None without groups."""
    by_group = defaultdict(list)
    for value, key in zip(values, group, strict=True):
        by_group[key].append(value)
    still = [np.std(v) < ZERO_STD for v in by_group.values() if len(v) > 1]
    return float(np.mean(still)) if still else None
