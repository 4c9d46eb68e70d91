"""The prompt that a page shows is the median one, and compared systems stand side by side."""

from __future__ import annotations

from moslim_core.evaluation.controllability import Obtained
from moslim_core.preferences import PreferenceSchema
from moslim_core.report import median_prompt, side_by_side

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


def test_compared_answers_to_one_prompt_at_both_ends() -> None:
    """By all answers prompt 1 is the median; b was not asked for the highest level, and a cut answer is marked."""
    good = [row(p, error + 1) for p, error in enumerate((0, 1, 3))]
    bad = [row(p, error + 1).model_copy(update={"truncated": True}) for p, error in enumerate((1, 2, 4))]
    good += [row(1, 5, level=5), row(1, 2, "warmth", 2), row(1, 1, "warmth", 1)]
    good.append(Obtained(prompt=1, targets={"length": 5, "warmth": 1}, text="both", tokens=1, truncated=False, levels={"length": 5}))
    found = side_by_side({"a": good, "b": bad}, ["zero?", "one?", "two?"], SCHEMA, 7)
    assert found is not None and (found.prompt, found.seed) == ("one?", 7)
    assert [(of.preference, of.level) for of in found.requests] == [("length", 1), ("length", 5), ("warmth", 1), ("warmth", 2)]
    assert {name: (of.text, of.obtained) for name, of in found.requests[0].answers.items()} == {"a": ("w", 2), "b": ("w…", 3)}
    assert found.requests[1].answers["a"].text == "w" and "b" not in found.requests[1].answers
    assert side_by_side({"a": []}, [], SCHEMA, 7) is None
