"""What to do with a trained policy, as words of this program's commands; who shows them knows how it is called and where things are."""

from __future__ import annotations

from moslim_core.preferences import Preference


def chats(preference: Preference, *where: str) -> list[list[str]]:
    """A chat at the lowest and one at the highest level of a preference; a guard has one. `where`: options that lead to the policy."""
    ends = sorted({preference.requestable[0], preference.requestable[-1]})
    return [["chat", *where, "--prefer", f"{preference.name}={level}"] for level in ends]
