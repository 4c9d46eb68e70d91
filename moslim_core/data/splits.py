"""Which split a rated row belongs to: decided for a whole prompt group, from what the sources state and from the prompt alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np

from moslim_core.data.prompt_groups import PromptGroups
from moslim_core.data.rows import unit_hash
from moslim_core.data.settings import DataSettings
from moslim_core.preferences import Message

TRAIN, VALIDATION, TEST, JUDGE = "train", "validation", "test", "judge"

CROSSES = "prompt that also stands in another split"
NEARLY_CROSSES = "prompt nearly the same as one in another split"

# What is known of a prompt: it is rated; a row of it stands in a stated split; a source of it states its own test or validation
# split, so that none is cut from its rows.
_RATED, _IN_TEST, _IN_VALIDATION, _OWN_TEST, _OWN_VALIDATION = 1, 2, 4, 8, 16
_STATED = {TEST: _IN_TEST, VALIDATION: _IN_VALIDATION}

# Each of test, validation and judge gets at least so many of the groups that rate a preference; of few groups a fifth.
FEWEST = 5


class Splits:
    """Add every prompt, then `decide`, then ask.

    A split that a source states is kept. A group that stands in several is test's, else validation's, and its rows in the others
    are dropped; rows without a stated split go where their group is. What no source states is cut by the hash of the group's key:
    test, validation, and with `judge` half of the training groups for an independent judge. Where hashes leave a split fewer than
    FEWEST groups that rate a preference, those with the next hashes join it: shares of a small set may come to nothing. (ours)
    """

    def __init__(self, data: DataSettings, judge: bool) -> None:
        self.data, self.judge = data, judge
        self.prompts = PromptGroups(data.near_duplicates)
        self._known = bytearray()
        # By preference, whether a row with the prompt rates it.
        self._rating: dict[str, bytearray] = defaultdict(bytearray)

    def add(self, prompt: list[Message]) -> int:
        """Add a prompt; returns its number."""
        number = self.prompts.add(prompt)
        if number == len(self._known):
            self._known.append(0)
        return number

    def add_rated(self, prompt: list[Message], stated: str | None, states: frozenset[str | None], rates: Iterable[str] = ()) -> None:
        """Add the prompt of a rated row, with the split stated for it, all splits that its source states, and what the row rates."""
        known = _RATED | _STATED.get(stated or "", 0)
        known |= (_OWN_TEST if TEST in states else 0) | (_OWN_VALIDATION if VALIDATION in states else 0)
        number = self.add(prompt)
        self._known[number] |= known
        for name in rates:
            rated = self._rating[name]
            rated.extend(bytes(max(0, number + 1 - len(rated))))
            rated[number] = 1

    def decide(self) -> None:
        """Group the prompts and give each group its split."""
        self.group = self.prompts.groups()
        self.keys = self.prompts.keys()
        self.known = np.frombuffer(bytes(self._known), np.uint8)
        self._of_group = np.zeros(len(self.known), np.uint8)
        np.bitwise_or.at(self._of_group, self.group, self.known)
        self._split = {int(group): self._decided(int(group)) for group in np.unique(self.group)}
        rated = np.flatnonzero(self.known & _RATED)
        for numbers in (rated, *(self._rated_for(name) for name in sorted(self._rating))):
            self._fill_up(np.unique(self.group[numbers]).tolist())

    def _decided(self, group: int) -> str:
        known, key = int(self._of_group[group]), self.keys[group]
        if known & _IN_TEST:
            return TEST
        if known & _IN_VALIDATION:
            return VALIDATION
        place = unit_hash(key, "split")
        if not known & _OWN_TEST and place < self.data.test_fraction:
            return TEST
        if not known & _OWN_VALIDATION and 1 - place <= self.data.validation_fraction:
            return VALIDATION
        return JUDGE if self.judge and unit_hash(key, "judge") < 0.5 else TRAIN

    def _fill_up(self, groups: list[int]) -> None:
        """See to it that each split has the fewest of these groups, from splits that have more; what is stated stays."""
        least = min(FEWEST, max(1, len(groups) // 5))
        held = Counter(self._split[group] for group in groups)
        # Without a group to train on there is nothing to measure.
        splits = {TRAIN: 0, TEST: _OWN_TEST, VALIDATION: _OWN_VALIDATION, **({JUDGE: 0} if self.judge else {})}
        for split, own in splits.items():
            taken = own | _IN_TEST | _IN_VALIDATION
            free = [group for group in groups if not self._of_group[group] & taken] if held[split] < least else []
            for group in sorted(free, key=lambda group: self._distance(group, split)):
                spare = 0 if split == TRAIN and not held[TRAIN] else least
                if held[split] < least and held[self._split[group]] > spare:
                    held.update({self._split[group]: -1, split: 1})
                    self._split[group] = split

    def _distance(self, group: int, split: str) -> float:
        """How far the group's hash is from those of a split."""
        place, half = unit_hash(self.keys[group], "split"), unit_hash(self.keys[group], "judge")
        return {TEST: place, VALIDATION: 1 - place, JUDGE: half, TRAIN: 1 - half}[split]

    def of(self, number: int) -> str:
        """The split of a prompt's group."""
        return self._split[int(self.group[number])]

    def sizes(self, preference: str) -> dict[str, int]:
        """How many of the prompts that a row rates for a preference fell into each split, the splits without any left out."""
        return dict(Counter(self.of(number) for number in self._rated_for(preference).tolist()))

    def rated_sizes(self) -> dict[str, int]:
        """How many of all rated prompts fell into each split."""
        return dict(Counter(self.of(number) for number in np.flatnonzero(self.known & _RATED).tolist()))

    def _rated_for(self, preference: str) -> np.ndarray:
        """The numbers of the prompts that a row rates for a preference."""
        return np.flatnonzero(np.frombuffer(bytes(self._rating[preference]), np.uint8))

    def crossing(self, number: int, stated: str | None) -> str | None:
        """Why a row of this prompt with this stated split has to be dropped; None if it stays."""
        split = self.of(number)
        if stated is None or stated == split or not self._of_group[self.group[number]] & (_IN_TEST | _IN_VALIDATION):
            return None
        return CROSSES if self.known[number] & _STATED[split] else NEARLY_CROSSES

    def trained(self) -> set[int]:
        """The rated prompts that are not test's."""
        return {number for number in np.flatnonzero(self.known & _RATED).tolist() if self.of(number) != TEST}

    def summary(self) -> dict[str, int]:
        """Of the rated prompts: how many differ, how many groups they form, how many are nearly another one, the largest group."""
        rated = np.flatnonzero(self.known & _RATED)
        sizes = np.bincount(self.group[rated])
        sizes = sizes[sizes > 0]
        return {
            "distinct": len(rated),
            "groups": len(sizes),
            "nearly the same as another": int(sizes[sizes > 1].sum()),
            "largest group": int(sizes.max(initial=0)),
        }
