"""Which targets the training prompts carry: stratified over subsets and levels, some combinations held out. (docs/method.md section 4)"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

from moslim_core.errors import UserError
from moslim_core.preferences.schema import PreferenceSchema, Targets


def held_out_pairs(schema: PreferenceSchema, fraction: float, seed: int) -> list[Targets]:
    """`fraction` of the level pairs of two different preferences, held out of training and requested in evaluation.

    No level is ever held out altogether: pairs that would leave a level without any partner are not chosen.
    """
    steered = [p for p in schema.preferences if not p.is_guard]
    pairs = [Targets({a.name: i, b.name: j}) for a, b in itertools.combinations(steered, 2) for i in a.requestable for j in b.requestable]
    random.Random(seed).shuffle(pairs)
    wanted = round(fraction * len(pairs))
    chosen: list[Targets] = []
    uses: dict[tuple[str, int], int] = {}
    for pair in pairs:
        if len(chosen) == wanted:
            break
        # At most one held-out partner for each level keeps every level trainable beside every other preference.
        if all(uses.get(item, 0) == 0 for item in pair.items()):
            chosen.append(pair)
            for item in pair.items():
                uses[item] = uses.get(item, 0) + 1
    return chosen


def is_held_out(targets: Targets, held_out: list[Targets]) -> bool:
    """Whether `targets` contains a held-out pair."""
    return any(all(targets.get(name) == level for name, level in pair.items()) for pair in held_out)


class _Deck:
    """Deals every card equally often, in shuffled rounds."""

    def __init__(self, cards: list[Any], rng: random.Random) -> None:
        self.cards, self.rng = cards, rng
        self.hand: list[Any] = []

    def draw(self) -> Any:
        if not self.hand:
            self.hand = self.rng.sample(self.cards, len(self.cards))
        return self.hand.pop()

    def put_back(self, card: Any) -> None:
        self.hand.insert(self.rng.randrange(len(self.hand) + 1), card)


class TargetSampler:
    """An endless, deterministic stream of targets.

    The number of requested preferences is dealt evenly over 1..`largest` (all by default), except for a share
    `none_fraction` that asks for nothing;
    which preferences and which levels are dealt from decks, so each level of a preference comes equally often.
    """

    def __init__(
        self, schema: PreferenceSchema, seed: int, none_fraction: float, held_out: list[Targets], largest: int | None = None
    ) -> None:
        if not 0 <= none_fraction < 1:
            raise UserError(f"none_fraction={none_fraction} must lie in [0, 1)")
        self.schema, self.none_fraction, self.held_out = schema, none_fraction, held_out
        self.rng = random.Random(seed)
        self.sizes = _Deck(list(range(1, min(largest or len(schema), len(schema)) + 1)), self.rng)
        self.names = _Deck(list(schema.names), self.rng)
        self.levels = {p.name: _Deck(list(p.requestable), self.rng) for p in schema.preferences}
        self.none_owed = 0.0

    def __iter__(self) -> Iterator[Targets]:
        return self

    def __next__(self) -> Targets:
        return self.contrasting(1)[0]

    def contrasting(self, count: int) -> list[Targets]:
        """`count` targets for the same preferences that differ in the levels of each, as far as it has that many levels."""
        self.none_owed += self.none_fraction
        if self.none_owed >= 1:
            self.none_owed -= 1
            return [Targets()] * count
        names = _distinct(self.names, self.sizes.draw())
        # Rejected cards go back only after a combination was found: put back at once, the last of a round would come for ever.
        rejected: list[tuple[str, int]] = []
        for _ in range(1000):
            levels = {name: _distinct(self.levels[name], count) for name in names}
            chosen = [Targets({name: dealt[i] for name, dealt in levels.items()}) for i in range(count)]
            if not any(is_held_out(targets, self.held_out) for targets in chosen):
                for name, level in rejected:
                    self.levels[name].put_back(level)
                return [self.schema.targets(targets) for targets in chosen]
            rejected.extend((name, level) for name, dealt in levels.items() for level in dealt)
        raise UserError(f"every combination of {', '.join(names)} is held out: lower policy.held_out_fraction")


def _distinct(deck: _Deck, count: int) -> list[Any]:
    """`count` cards without a repetition before all cards were dealt once."""
    dealt: list[Any] = []
    passed: list[Any] = []
    while len(dealt) < count:
        card = deck.draw()
        if dealt.count(card) > len(dealt) // len(deck.cards):
            passed.append(card)
        else:
            dealt.append(card)
    for card in passed:
        deck.put_back(card)
    return dealt
