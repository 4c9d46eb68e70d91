"""The shared reward callable: it scores the plain question, goes by the row and not by the place, and logs what rewards are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moslim_core.policy.conditioning import dump_targets, training_examples
from moslim_core.policy.reward_function import PolicyReward, zero_variance
from moslim_core.preferences import PreferenceSchema
from moslim_core.reward.mapping import RewardMapping
from moslim_core.settings import MappingSettings, PolicySettings

SCHEMA = PreferenceSchema.model_validate(
    [{"name": "warmth", "levels": ["cold", "neutral", "warm"]}, {"name": "length", "levels": ["short", "long"]}]
)


class RecordingScorer:
    """Says of each answer what stands in it: 'warmth length', as levels that it is sure of."""

    schema = SCHEMA

    def __init__(self) -> None:
        self.seen: list[tuple[list[str], list[str]]] = []

    def __call__(self, questions: list[str], answers: list[str]) -> dict[str, np.ndarray]:
        self.seen.append((questions, answers))
        levels = np.array([a.split() for a in answers], dtype=int)
        return {p.name: np.eye(p.k)[levels[:, i] - 1] for i, p in enumerate(SCHEMA.preferences)}


def reward(**mapping: Any) -> tuple[PolicyReward, RecordingScorer]:
    scorer = RecordingScorer()
    settings = MappingSettings(**{"standardisation": "none", **mapping})
    return PolicyReward(scorer, RewardMapping(SCHEMA, settings)), scorer  # type: ignore[arg-type]


@pytest.mark.parametrize("placement", ["system", "user_prefix", "user_suffix"])
def test_reward_model_never_sees_the_instruction(placement: Any) -> None:
    prompts = [[{"role": "user", "content": f"Rain {i}?"}] for i in range(4)]
    examples = training_examples(prompts, SCHEMA, PolicySettings(steps=2, placement=placement), seed=0)
    assert sum("<preferences>" in str(e["prompt"]) for e in examples) > 10
    call, scorer = reward()
    columns = {key: [e[key] for e in examples] for key in examples[0]}
    # TRL hands over every column, the conditioned prompts under `prompts` too.
    columns["prompts"] = columns.pop("prompt")
    completions = [[{"role": "assistant", "content": "1 2"}] for _ in examples]
    call(completions=completions, completion_ids=[[0]] * len(examples), **columns)
    ((questions, answers),) = scorer.seen
    assert questions == [e["question"] for e in examples]
    assert set(questions) == {f"Rain {i}?" for i in range(4)}
    assert set(answers) == {"1 2"}


def test_rewards_follow_their_rows() -> None:
    call, _ = reward()
    rows = [
        # (answer, targets, ordinal reward): |c - t| / (K - 1) away from 1.
        ("3 1", {"warmth": 3}, 1.0),
        ("2 1", {"warmth": 3}, 0.5),
        ("1 1", {"warmth": 3, "length": 1}, 0.5),
        ("1 2", {"length": 1}, 0.0),
        ("1 2", {}, 0.0),
    ]
    for order in ([0, 1, 2, 3, 4], [3, 1, 4, 0, 2]):
        found = call(
            [rows[i][0] for i in order],
            question=[f"Question {i}" for i in order],
            targets=[dump_targets(rows[i][1]) for i in order],
            group=order,
        )
        assert found == pytest.approx([rows[i][2] for i in order])


def test_metrics_are_per_preference_and_level() -> None:
    call, _ = reward(standardisation="batch")
    logged: dict[str, float] = {}
    call(
        ["3 1", "3 2", "1 1", "2 1", "2 2"],
        question=["?"] * 5,
        targets=[dump_targets(t) for t in ({"warmth": 3}, {"warmth": 3}, {"warmth": 1}, {"warmth": 1}, {})],
        group=[0, 0, 1, 1, 2],
        log_metric=logged.__setitem__,
    )
    # Utilities of warmth 1, 1, 1, 1/2: mean 7/8; group 0 does not vary, group 1 does; nobody asked for a length.
    assert logged == {
        "utility/warmth": pytest.approx(0.875),
        "standardised/warmth": pytest.approx(0, abs=1e-9),
        "zero_variance/warmth": pytest.approx(0.5),
        "expected_level/warmth/1": pytest.approx(1.5),
        "expected_level/warmth/3": pytest.approx(3),
        "zero_variance/warmth/1": 0.0,
        "zero_variance/warmth/3": 1.0,
    }


def test_rules_say_beside_the_reward_model_how_near_answers_are() -> None:
    rule = {"measure": "word_count", "thresholds": [1]}
    ruled = PreferenceSchema.model_validate([SCHEMA["warmth"].model_dump(), {**SCHEMA["length"].model_dump(), "annotator": rule}])

    class Sure(RecordingScorer):
        schema = ruled

        def __call__(self, questions: list[str], answers: list[str]) -> dict[str, np.ndarray]:
            return {"warmth": np.full((len(answers), 3), 1 / 3), "length": np.array([[0.0, 1.0]] * len(answers))}

    call = PolicyReward(Sure(), RewardMapping(ruled, MappingSettings(standardisation="none")))  # type: ignore[arg-type]
    logged: dict[str, float] = {}
    columns = {"question": ["?"] * 4, "targets": [dump_targets({"length": 2})] * 3 + [dump_targets({"warmth": 1})], "group": [0, 0, 0, 1]}
    call(["one", "one", "one two", "one"], **columns, log_metric=logged.__setitem__)
    # The reward model takes all for long; the rule only one of the three that were asked to be.
    assert logged["utility/length"] == 1 and logged["judged/length"] == pytest.approx(1 / 3)
    assert "judged/warmth" not in logged


def test_zero_variance() -> None:
    values, group = np.array([1, 2, 5, 5, 5, 7]), np.array([0, 0, 1, 1, 2, 2])
    assert zero_variance(values, group) == pytest.approx(1 / 3)
    assert zero_variance(values[[0, 2, 4, 1, 3, 5]], group[[0, 2, 4, 1, 3, 5]]) == pytest.approx(1 / 3)


def test_broken_head_stops_the_run_and_names_the_prompt() -> None:
    class Broken(RecordingScorer):
        def __call__(self, questions: list[str], answers: list[str]) -> dict[str, np.ndarray]:
            return {p.name: np.full((len(answers), p.k), np.nan) for p in SCHEMA.preferences}

    call = PolicyReward(Broken(), RewardMapping(SCHEMA, MappingSettings()))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"'Rain\?'.*the warmth head"):
        call(["a"], question=["Rain?"], targets=["{}"], group=[0])
