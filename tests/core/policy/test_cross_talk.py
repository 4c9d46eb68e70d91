"""What requests move that they leave open is measured as an evaluation measures it, and pushed back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moslim_core.evaluation.controllability import slope
from moslim_core.policy.cross_talk import NO_SLOPE, CrossTalk
from moslim_core.policy.settings import PolicySettings
from moslim_core.preferences import PreferenceSchema, Targets
from tests.core.policy.test_rewards import Drawn, judged, made

SCHEMA = PreferenceSchema.model_validate(
    [
        {"name": "warmth", "levels": ["cold", "neutral", "warm"]},
        {"name": "length", "levels": ["short", "middling", "long"], "direction": "lower_is_better"},
        {"name": "safety", "levels": ["unsafe", "safe"], "floor": 2},
    ]
)
# Of an answer: levels of warmth, length and safety, that the reward model is sure of.
Levels = tuple[int, int, int]


def probabilities(levels: list[Levels]) -> dict[str, np.ndarray]:
    rows = np.array(levels).reshape(-1, 3)
    return {p.name: np.eye(p.k)[rows[:, i] - 1] for i, p in enumerate(SCHEMA.preferences)}


def measured(asked: list[dict[str, int]], levels: list[Levels]) -> CrossTalk:
    found = CrossTalk(SCHEMA)
    found.measure(probabilities(levels), [Targets(t) for t in asked])
    return found


def test_slopes_and_losses_by_hand() -> None:
    """Cold answers are short and warm ones long; the score of a short answer is 1."""
    found = measured([{"warmth": 1}, {"warmth": 3}], [(1, 1, 2), (3, 3, 2)])
    # x = -1/2, 1/2; y = 1, 0: sum xy = -1/2, sum of x squares 1/2, and as much again for what is not known.
    assert found.figures() == {
        "cross_talk/warmth/length": pytest.approx(-0.5 / (0.5 + NO_SLOPE)),
        "cross_talk/warmth/safety": pytest.approx(0),
    }
    asked = [Targets({"warmth": level}) for level in (3, 3, 1, 1)]
    # Warm and long loses nothing, warm and short -1/4: it wins; of cold answers the long one is better off by as much.
    assert found.losses(probabilities([(3, 3, 2), (3, 1, 2), (1, 3, 2), (1, 1, 2)]), asked).tolist() == pytest.approx([0, -0.25, 0, 0.25])
    nothing_open = [Targets({"warmth": 3, "length": 1, "safety": 2}), Targets({}), Targets({"safety": 2})]
    assert found.losses(probabilities([(3, 1, 2)] * 3), nothing_open).tolist() == [0, 0, 0]


Asked = st.dictionaries(st.sampled_from(["warmth", "length"]), st.integers(1, 3))
Answers = st.lists(st.tuples(Asked, st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2))), min_size=2, max_size=12)


@given(Answers)
def test_with_many_answers_a_slope_is_the_evaluations(answers: list[tuple[dict[str, int], Levels]]) -> None:
    asked, levels = [a for a, _ in answers] * 2000, [each for _, each in answers] * 2000
    found = measured(asked, levels).slopes
    for i, j in ((0, 1), (1, 0), (0, 2)):
        named, left = SCHEMA.preferences[i], SCHEMA.preferences[j]
        both = [(t, each[j]) for t, each in zip(asked, levels, strict=True) if named.name in t and left.name not in t]
        rows = [(named.score(t[named.name]), left.score(level)) for t, level in both]
        x, y = (np.array(column) for column in zip(*rows, strict=True)) if rows else (np.zeros(0), np.zeros(0))
        wanted = slope(x, y)
        # What is not known counts for NO_SLOPE beside a spread of 250 or more.
        assert found[i, j] == pytest.approx(0.0 if np.isnan(wanted) else wanted, rel=NO_SLOPE / 200, abs=1e-9)


@given(Answers)
def test_what_is_measured_goes_on_after_a_pause(answers: list[tuple[dict[str, int], Levels]]) -> None:
    asked, levels = [Targets(a) for a, _ in answers], probabilities([each for _, each in answers])
    whole, resumed = CrossTalk(SCHEMA), CrossTalk(SCHEMA)
    whole.measure(levels, asked)
    resumed.load_state(json.loads(json.dumps(whole.state())))
    for each in (whole, resumed):
        each.measure(levels, asked)
    assert (whole.slopes == resumed.slopes).all() and whole.losses(levels, asked).tolist() == resumed.losses(levels, asked).tolist()


def test_rewards_are_held_back_and_figures_say_from_what() -> None:
    """Only drawn answers under their own requests are measured; rated ones and all requests of a prompt are held back."""
    asked = [{"warmth": 1}, {"warmth": 3}]
    drawn: Drawn = [("1 1", 0), ("3 2", 1), ("3 1", None)]
    plain, held = (judged(made(cross_talk_penalty=penalty)[0], asked, drawn, True) for penalty in (0.0, 2.0))
    # Length has two levels here: x = -1/2, 1/2; y = 0, 1.
    assert held.figures == plain.figures | {"cross_talk/warmth/length": pytest.approx(0.5)}
    lost: Any = (plain.rewards - held.rewards).view(3, 2)
    # 2 * 0.5 * (requested - 1/2) * length.
    assert lost[1].tolist() == pytest.approx([-0.5, 0.5])
    assert lost[0].tolist() == lost[2].tolist() == [0, 0]
    assert (plain.utilities - held.utilities).view(3, 2, 2)[:, :, 0].flatten().tolist() == pytest.approx(lost.flatten().tolist())


def test_without_drawn_answers_there_is_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match=r"cross_talk_penalty=2\.0 is measured on drawn answers"):
        PolicySettings(cross_talk_penalty=2.0, rated_answers=1)
