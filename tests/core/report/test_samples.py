"""The prompt that a page shows is the median one."""

from __future__ import annotations

from moslim_core.evaluation.controllability import Obtained
from moslim_core.preferences import PreferenceSchema
from moslim_core.report import median_prompt

SCHEMA = PreferenceSchema.model_validate(
    [{"name": "length", "levels": ["a", "b", "c", "d", "e"]}, {"name": "warmth", "levels": ["cold", "warm"]}]
)


def row(prompt: int, obtained: float, name: str = "length", level: int = 1) -> Obtained:
    return Obtained(prompt=prompt, targets={name: level}, text="w", tokens=1, truncated=False, levels={name: obtained})


def test_median_by_error_as_a_share_of_the_range() -> None:
    """Prompt 0 is off by all, 1 by nothing, 2 by a half of four levels, 3 (of one level) by a quarter; 4 was not judged."""
    rows = [row(0, 2, "warmth"), row(1, 1), row(2, 3), row(3, 2)]
    rows.append(Obtained(prompt=4, targets={"length": 1}, text="", tokens=0, truncated=False, levels={}))
    assert median_prompt(rows[:3], SCHEMA) == 2
    # Of four the lower of the two in the middle.
    assert median_prompt(rows, SCHEMA) == 3
    assert median_prompt(rows[4:], SCHEMA) is None
