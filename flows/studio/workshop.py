"""The models behind the page: a policy with its starting model, its reward model and its front, each loaded when it is first needed."""

from __future__ import annotations

import gc
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NamedTuple

from flows.studio.findings import Found, find
from flows.studio.session import Asked, Drawn, System
from flows.studio.turns import End, Turns
from moslim_core.errors import UserError
from moslim_core.evaluation.fronts import Front
from moslim_core.models import load_chat_model, pick_device
from moslim_core.policy.artifact import PolicyCard
from moslim_core.policy.generation import Answer
from moslim_core.policy.open_batch import Ask
from moslim_core.policy.steerable import SteerablePolicy
from moslim_core.preferences import Message, PreferenceSchema
from moslim_core.reward.scorer import RewardScorer
from tasks import environment
from tasks.lineage import KnownPolicy, Lineage, known_policies, lineage_of
from tasks.stage import folder_of

# So many policies stay loaded, the last used.
KEPT = 2


class Fronts(NamedTuple):
    """Of the starting model and of the policy, at the same operating points."""

    before: Front | None
    after: Front


class Opened:
    """A policy that pages use. Loads in the thread that asks, once."""

    def __init__(self, reference: str, folder: Path, lineage: Lineage, cache: Path, base: str | None) -> None:
        self.reference, self.folder, self.lineage = reference, folder, lineage
        self.card = PolicyCard.load(folder)
        self._cache, self._base = cache, base
        # The reward model that trained it, None where no run on record says which.
        self.scorer: RewardScorer | None = None
        self._speakers: dict[System, SteerablePolicy] = {}
        self._lock = threading.Lock()

    @property
    def schema(self) -> PreferenceSchema:
        return self.card.preferences

    def load(self, system: System) -> SteerablePolicy:
        """The policy, or the model that it was before its training, asked in the same words; and the reward model. Takes a while once."""
        # Whoever has what it needs waits for nobody who loads.
        if system not in self._speakers:
            with self._lock:
                if system not in self._speakers:
                    self._speakers[system] = self._policy() if system == "policy" else self._start()
                if self.scorer is None and self.lineage.reward_model is not None:
                    self.scorer = RewardScorer.load(self.lineage.reward_model, pick_device())
        return self._speakers[system]

    def _policy(self) -> SteerablePolicy:
        return SteerablePolicy.from_pretrained(self.folder, self._cache, base=self._base)

    def _start(self) -> SteerablePolicy:
        model, tokenizer = load_chat_model(self.card.start(self.folder, self._cache, self._base), self._cache)
        return SteerablePolicy(model, tokenizer, self.card)

    def fronts(self) -> Fronts | None:
        """The front of its last evaluation, None where there is none."""
        from moslim_core.evaluation.suite import read_front

        folder = self.lineage.evaluation
        after = read_front(folder, "after") if folder else None
        return Fronts(read_front(folder, "before"), after) if folder and after and len(after.reference) > 1 else None


class Workshop:
    """What all pages of one server share: policies by reference, and the thread that draws. Nothing of any visitor is kept here."""

    def __init__(self, work_dir: Path, base: str | None = None) -> None:
        self.work_dir = work_dir
        self.turns = Turns()
        self.base = base
        self._opened: OrderedDict[str, Opened] = OrderedDict()
        self._lock = threading.Lock()

    def choices(self) -> list[KnownPolicy]:
        """The policies to pick from."""
        return known_policies(self.work_dir)

    def open(self, reference: str) -> Opened:
        """A policy by its reference, loaded so far that it answers. Raises UserError where it is none."""
        with self._lock:
            folder = folder_of(reference, self.work_dir)
            key = f"{reference} {folder}"
            if key not in self._opened:
                cache = environment.model_cache(self.work_dir)
                opened = Opened(reference, folder, lineage_of(folder, self.work_dir), cache, self.base)
                opened.load("policy")
                self._opened[key] = opened
            self._opened.move_to_end(key)
            while len(self._opened) > KEPT:
                self._opened.popitem(last=False)
                gc.collect()
            return self._opened[key]

    def answer(self, opened: Opened, asked: Asked, messages: Sequence[Message], drawn: Drawn) -> AsyncIterator[str | End[Answer]]:
        """The pieces of an answer, then its End."""
        said = list(messages)

        def ask() -> tuple[SteerablePolicy, Ask]:
            speaker = opened.load(asked.system)
            return speaker, speaker.ask(said, asked.targets, *drawn)

        return self.turns.answer(ask)

    async def find(self, opened: Opened, asked: Asked, messages: Sequence[Message], answer: str) -> list[Found]:
        """What the reward model and the rules find in an answer."""
        return await self.turns.done(lambda: find(messages, answer, asked.targets, opened.schema, opened.scorer))


def newest(choices: Sequence[KnownPolicy]) -> str:
    """The policy of a studio that was told none: the registry's first, else the newest. Raises UserError where there is none."""
    if not choices:
        raise UserError(
            "this work directory has no trained policy.\nTrain one: moslim run --profile demo\nOr name one: moslim studio --policy REF"
        )
    return choices[0].reference
