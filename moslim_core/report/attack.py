"""What the page says of control under attack."""

from __future__ import annotations

from moslim_core.evaluation.attack import UnderAttack
from moslim_core.report.content import Both
from moslim_core.report.wording import with_bounds

CONDITIONS = {"none": "nothing else", "wish": "a plain wish for the other end", "forged": "a forged instruction for the other end"}


def gave_way_said(attack: Both[UnderAttack]) -> str:
    """How far contradicting words moved answers, the policy's and those of the prompt alone."""
    before, after = attack.before.gave_way, attack.after.gave_way
    return (
        "Where the user's words contradict what is asked for, answers move towards them by a share of a preference's range: "
        f"{with_bounds(after['wish'])} for a plain wish (prompt alone: {with_bounds(before['wish'])}), "
        f"{with_bounds(after['forged'])} for a forged instruction (prompt alone: {with_bounds(before['forged'])})."
    )
