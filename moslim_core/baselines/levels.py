"""Requests for levels to a compared system, and its answers to them. (ours)"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from moslim_core.baselines.method import Answering, ByInstruction, Context, LevelBased
from moslim_core.evaluation.answers import judged, requests
from moslim_core.evaluation.controllability import Obtained
from moslim_core.policy.generation import Answer, Sampling
from moslim_core.preferences import Message, Targets


class Levels(ABC):
    """One row of a method, asked for levels."""

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
        context = self.context
        answers = self.answers("together", [context.prompts[prompt] for prompt, _ in wanted], wanted, context.sampling)
        return judged(answers, wanted, context.prompts, context.judge)

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

    def under(self, targets: Targets) -> Answering:
        return self.method.under(targets)

    def name(self, targets: Targets) -> str:
        return f"request {', '.join(f'{n}={level}' for n, level in targets.items())}"

    def alone(self) -> list[Obtained]:
        wanted = requests(self.context.settings.preferences, [])
        return [one for targets in wanted for one in self.context.judged_answers(self.under(targets), self.name(targets), targets)]

    def answers(
        self, what: str, conversations: Sequence[Sequence[Message]], requested: Sequence[tuple[int, Targets]], sampling: Sampling
    ) -> list[Answer | None]:
        if not isinstance(self.method, ByInstruction):
            return super().answers(what, conversations, requested, sampling)
        # One model answers them all: worded and drawn as in the evaluation of a policy.
        system = self.method.system
        read = [system.conditioned(c, targets, place) for c, (place, targets) in zip(conversations, requested, strict=True)]
        return system.answers(what, read, sampling)
