"""What one visitor has set, and what is asked for when the button is pressed. (ours)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

from moslim_core.data.rows import well_formed
from moslim_core.errors import UserError
from moslim_core.preferences import Message, Preference, PreferenceSchema

Mode = Literal["one", "start", "two", "row"]
MODES: dict[Mode, str] = {
    "one": "One setting",
    "start": "Beside the starting model",
    "two": "Two settings",
    "row": "All levels of one preference",
}
System = Literal["policy", "start"]
# As the report calls them, with its colours.
SYSTEMS: dict[System, tuple[str, str]] = {"policy": ("policy", "after"), "start": ("prompt only", "before")}
SETTINGS = ("A", "B")
NOTHING = "nothing asked for"

Targets = dict[str, int]


class Asked(NamedTuple):
    """One of the answers that a press of the button asks for."""

    system: System
    targets: Targets


class Drawn(NamedTuple):
    """How answers are drawn. `max_new_tokens` None: as the policy was trained."""

    temperature: float = 0.7
    max_new_tokens: int | None = None
    seed: int = 0


class Session:
    """Two settings of the sliders, what is compared, and the conversation so far. A slider stands at a level or, as None, is open."""

    def __init__(self, schema: PreferenceSchema) -> None:
        self.schema = schema
        self.mode: Mode = "start"
        self.settings: dict[str, Targets] = {name: {} for name in SETTINGS}
        self.row = steered(schema)[0].name if steered(schema) else ""
        self.said: list[Message] = []

    def set(self, setting: str, preference: str, level: int | None) -> None:
        """Move a slider. Raises UserError for what can't be requested; a guard stays where it is."""
        levels = {name: at for name, at in self.settings[setting].items() if name != preference}
        self.settings[setting] = dict(self.schema.targets(levels if level is None else {**levels, preference: level}))

    def use(self, setting: str, levels: Mapping[str, int]) -> None:
        """Put all sliders of a setting as `levels` has them; those that it does not name are open."""
        self.settings[setting] = dict(self.schema.targets(levels))

    def targets(self, setting: str) -> Targets:
        """What a setting asks for, with the guards, which are always held."""
        return dict(self.schema.targets({**self.settings[setting], **held(self.schema)}))

    def compare(self, mode: str) -> None:
        """Choose what is compared. Raises UserError for what there is not."""
        if mode not in get_args(Mode) or (mode == "row" and not self.row):
            raise UserError(f"{mode!r} is nothing that can be compared here: there are {', '.join(MODES)}.")
        self.mode = mode  # type: ignore[assignment]

    def asks(self) -> list[Asked]:
        """The answers to ask for, from left to right."""
        first = self.targets("A")
        if self.mode == "two":
            return [Asked("policy", self.targets(name)) for name in SETTINGS]
        if self.mode == "start":
            return [Asked("start", first), Asked("policy", first)]
        if self.mode == "row":
            return [Asked("policy", dict(self.schema.targets({**first, self.row: n}))) for n in self.schema[self.row].requestable]
        return [Asked("policy", first)]

    def saying(self, text: str) -> list[Message]:
        """The conversation with a new message at its end. Raises UserError where there is none."""
        if not text.strip():
            raise UserError("There is no message yet: write one first.")
        return [*self.said, {"role": "user", "content": well_formed(text.strip())}]

    def go_on_from(self, messages: list[Message], answer: str) -> None:
        """Make an answer part of the conversation; the next message replies to it."""
        self.said = [*messages, {"role": "assistant", "content": answer}]

    def begin_anew(self) -> None:
        """Forget the conversation, and nothing else."""
        self.said = []


def steered(schema: PreferenceSchema) -> list[Preference]:
    """The preferences with more than one level to request."""
    return [p for p in schema.preferences if not p.is_guard]


def held(schema: PreferenceSchema) -> Targets:
    """The guards at the one level that may be requested of each."""
    return {p.name: p.k for p in schema.preferences if p.is_guard}


def worded(targets: Mapping[str, int], schema: PreferenceSchema) -> str:
    """'verbosity 1 · a few words, warmth 3 · warm', in the schema's order."""
    return ", ".join(f"{p.name} {at_level(p, targets[p.name])}" for p in schema.preferences if p.name in targets) or NOTHING


def at_level(preference: Preference, level: int | None) -> str:
    """'1 · a few words', or 'open'."""
    return "open" if level is None else f"{level} · {preference.label(level)}"
