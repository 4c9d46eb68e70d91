"""A compared system's answers at the operating points, and to requests for levels. (ours)"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from moslim_core.baselines.method import Answering, ByInstruction, Context, LevelBased
from moslim_core.evaluation.answers import judged, requests
from moslim_core.evaluation.controllability import Obtained
from moslim_core.evaluation.fronts import levels_of
from moslim_core.policy.generation import Answer, Sampling
from moslim_core.preferences import Message, Targets


class Points(NamedTuple):
    """Of every operating point: judged answers to the evaluation prompts, the requested targets, {} where weights steer, and, of what
    was trained, its typical levels (`Context.typical_levels`)."""

    answers: list[list[Obtained]]
    requested: list[Targets]
    typical: list[dict[str, float]]


class Levels(ABC):
    """One row of a method, asked for levels."""

    points: Points

    def __init__(self, context: Context) -> None:
        self.context = context

    @abstractmethod
    def under(self, targets: Targets) -> Answering:
        """Who answers a request for `targets`; for none, a user who wants nothing in particular."""

    @abstractmethod
    def name(self, targets: Targets) -> str:
        """Of that one, by which requests are told that it may answer together."""

    @abstractmethod
    def alone(self) -> list[Obtained]:
        """Judged answers to every evaluation prompt under every requestable level alone."""

    def together(self, wanted: Sequence[tuple[int, Targets]]) -> list[Obtained]:
        """Judged answers under requests for several levels at once, (evaluation prompt, targets)."""
        return self.judged("together", wanted)

    def judged(self, what: str, requested: Sequence[tuple[int, Targets]]) -> list[Obtained]:
        """Judged answers to requests, (evaluation prompt, targets). Raises UserError where a prompt leaves no room for one."""
        context = self.context
        answers = self.answers(what, [context.prompts[prompt] for prompt, _ in requested], requested, context.sampling)
        return judged(answers, requested, context.prompts, context.judge)

    def answers(
        self, what: str, conversations: Sequence[Sequence[Message]], requested: Sequence[tuple[int, Targets]], sampling: Sampling
    ) -> list[Answer | None]:
        """One to each conversation under its targets; `requested`: (place among the prompts, targets). None where it has no room."""
        groups: dict[str, list[int]] = {}
        for number, (_, targets) in enumerate(requested):
            groups.setdefault(self.name(targets), []).append(number)
        answered: list[Answer | None] = [None] * len(conversations)
        for name, numbers in groups.items():
            who = self.under(requested[numbers[0]][1])
            given = who.answers(f"{what} {name}", [conversations[n] for n in numbers], sampling)
            for number, answer in zip(numbers, given, strict=True):
                answered[number] = answer
        return answered


class LevelsByRequest(Levels):
    """Of a method that is asked for levels."""

    def __init__(self, method: LevelBased, context: Context) -> None:
        super().__init__(context)
        self.method = method
        requested = [levels_of(weights.tolist(), context.schema) for weights in context.weights]
        each, known = len(context.prompts), context.known_prompts
        rows = self.judged("points", [(prompt, targets) for targets in requested for prompt in range(each)])
        typical: list[dict[str, float]] = []
        if method.trained:
            told = [(place, targets) for targets in requested for place in range(len(known))]
            given = self.answers("typical", known * len(requested), told, context.sampling)
            typical = [context.expected_levels(given[start : start + len(known)]) for start in range(0, len(given), len(known))]
        self.points = Points([rows[start : start + each] for start in range(0, len(rows), each)], requested, typical)

    def under(self, targets: Targets) -> Answering:
        return self.method.under(targets)

    def name(self, targets: Targets) -> str:
        return f"request {', '.join(f'{n}={level}' for n, level in targets.items())}"

    def alone(self) -> list[Obtained]:
        wanted = requests(self.context.settings.preferences, [])
        return self.judged("alone", [(prompt, targets) for targets in wanted for prompt in range(len(self.context.prompts))])

    def answers(
        self, what: str, conversations: Sequence[Sequence[Message]], requested: Sequence[tuple[int, Targets]], sampling: Sampling
    ) -> list[Answer | None]:
        if not isinstance(self.method, ByInstruction):
            return super().answers(what, conversations, requested, sampling)
        # One model answers them all: worded and drawn as in the evaluation of a policy.
        system = self.method.system
        read = [system.conditioned(c, targets, place) for c, (place, targets) in zip(conversations, requested, strict=True)]
        return system.answers(what, read, sampling)
