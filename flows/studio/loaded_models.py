"""The models behind the page: a policy with its starting model, its reward model and its front, each loaded when it is first needed."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NamedTuple

from flows.cli.printed_commands import command
from flows.studio.found_levels import Found, find
from flows.studio.session import Asked, Drawn, System
from flows.studio.shared_drawing import Voice
from moslim_core.errors import UserError
from moslim_core.evaluation.fronts import Front
from moslim_core.models import load_chat_model, pick_device
from moslim_core.policy.artifact import PolicyCard
from moslim_core.policy.generation import Answer
from moslim_core.policy.steerable import SteerablePolicy
from moslim_core.preferences import Message, PreferenceSchema
from moslim_core.reward.scorer import RewardScorer
from tasks.ledger.lineage import KnownPolicy, Lineage, known_policies, lineage_of
from tasks.ledger.of_work_dir import folder_of
from tasks.surroundings import environment

# So many policies stay loaded, the last used.
KEPT = 2


class Fronts(NamedTuple):
    """Of the starting model and of the policy, at the same operating points."""

    before: Front | None
    after: Front


class Opened:
    """A policy that pages use, and what belongs to it. What loads and scores is for threads of its own, as it takes a while."""

    def __init__(self, reference: str, folder: Path, lineage: Lineage, cache: Path, base: str | None) -> None:
        self.reference, self.folder, self.lineage = reference, folder, lineage
        self.card = PolicyCard.load(folder)
        self._cache, self._base = cache, base
        self._voices: dict[System, Voice] = {}
        self._scorer: RewardScorer | None = None
        self._loading, self._scoring = threading.Lock(), threading.Lock()

    @property
    def schema(self) -> PreferenceSchema:
        return self.card.preferences

    def voice(self, system: System) -> Voice:
        """The policy, or the model that it was before its training, asked in the same words. Raises UserError where it can't be loaded."""
        # Whoever has what it needs waits for nobody who loads.
        if system not in self._voices:
            with self._loading:
                if system not in self._voices:
                    self._voices[system] = Voice(self._policy() if system == "policy" else self._start())
        return self._voices[system]

    async def answer(self, request: Asked, messages: Sequence[Message], drawn: Drawn) -> AsyncIterator[str | Answer]:
        """The pieces of an answer as they are drawn, then the whole of it. Raises UserError."""
        voice = await asyncio.to_thread(self.voice, request.system)
        async for item in voice.answer(messages, request.targets, drawn):
            yield item

    def find(self, messages: Sequence[Message], answer: str, request: Asked) -> list[Found]:
        """What the reward model that trained it, where a run on record says which, and the rules find in an answer."""
        with self._scoring:
            if self._scorer is None and self.lineage.reward_model is not None:
                self._scorer = RewardScorer.load(self.lineage.reward_model, pick_device())
            return find(messages, answer, request.targets, self.schema, self._scorer)

    def fronts(self) -> Fronts | None:
        """The front of its last evaluation, None where there is none."""
        from moslim_core.evaluation.suite import read_front

        folder = self.lineage.evaluation
        after = read_front(folder, "after") if folder else None
        return Fronts(read_front(folder, "before"), after) if folder and after and len(after.reference) > 1 else None

    @property
    def idle(self) -> bool:
        """Whether nobody hears it now."""
        return all(voice.idle for voice in self._voices.values())

    def unload(self) -> None:
        """Give its memory back; who asks again loads again."""
        with self._loading, self._scoring:
            for voice in self._voices.values():
                voice.close()
            self._voices, self._scorer = {}, None

    def _policy(self) -> SteerablePolicy:
        return SteerablePolicy.from_pretrained(self.folder, self._cache, base=self._base)

    def _start(self) -> SteerablePolicy:
        model, tokenizer = load_chat_model(self.card.start(self.folder, self._cache, self._base), self._cache)
        return SteerablePolicy(model, tokenizer, self.card)


class Workshop:
    """What all pages of one server share: policies by reference. Nothing of any visitor is kept here."""

    def __init__(self, work_dir: Path, base: str | None = None) -> None:
        self.work_dir, self.base = work_dir, base
        self._opened: OrderedDict[str, Opened] = OrderedDict()
        self._lock = threading.Lock()

    def choices(self) -> list[KnownPolicy]:
        """The policies to pick from."""
        return known_policies(self.work_dir)

    def open(self, reference: str) -> Opened:
        """A policy by its reference, loaded so far that it answers. Raises UserError where it is none."""
        with self._lock:
            folder = folder_of(reference, self.work_dir)
            # An alias may have moved.
            key = f"{reference} {folder}"
            opened = self._opened.get(key)
            if opened is None:
                cache = environment.model_cache(self.work_dir)
                opened = Opened(reference, folder, lineage_of(folder, self.work_dir), cache, self.base)
            opened.voice("policy")
            self._opened[key] = opened
            self._opened.move_to_end(key)
            for other in list(self._opened.values())[:-KEPT]:
                if other.idle:
                    other.unload()
            return opened


def newest(choices: Sequence[KnownPolicy]) -> str:
    """The policy of a studio that was told none: the registry's first, else the newest. Raises UserError where there is none."""
    if not choices:
        raise UserError(
            "this work directory has no trained policy.\n"
            f"Train one: {command('run', '--profile', 'demo')}\nOr name one: {command('studio', '--policy', 'REF')}"
        )
    return choices[0].reference
