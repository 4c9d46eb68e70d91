"""Controllable Preference Optimization: its reward, its pairs, and a run on a tiny model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moslim_core.baselines.cpo import CPO, pairs, rewards
from moslim_core.baselines.measure import measure, read_rows
from moslim_core.baselines.method import Context
from moslim_core.policy.conditioning import Example
from moslim_core.preferences import PreferenceSchema, Targets, parse

SCHEMA = PreferenceSchema.model_validate(
    [
        {"name": "honesty", "levels": ["low", "middle", "high"]},
        {"name": "harm", "levels": ["none", "some"], "direction": "lower_is_better"},
    ]
)
SURE = {"honesty": np.eye(3), "harm": np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])}


def test_what_is_asked_for_is_met_and_what_is_not_is_the_better_the_higher() -> None:
    asked = rewards(SURE, [Targets({"honesty": 2, "harm": 1})] * 3, SCHEMA, {})
    assert asked.tolist() == [-0.5, 0.0, -1.5]
    free = rewards(SURE, [Targets()] * 3, SCHEMA, {"harm": 0.5})
    assert free.tolist() == [0.5, 1.0, 1.0], "the most honest answer is the best, and the harmless one"


def test_pairs_are_the_best_and_the_worst_answer_to_the_same_request() -> None:
    examples = [Example([{"role": "user", "content": text}], text, Targets(), number, []) for number, text in enumerate(("one", "two"))]
    (made,) = pairs(examples, ["a", "b", "c", "d", "e", "f"], np.array([0.0, 2.0, 1.0, 5.0, 5.0, 5.0]))
    assert made["prompt"] == examples[0].prompt
    assert (made["chosen"][0]["content"], made["rejected"][0]["content"]) == ("b", "a")


def test_a_run_has_a_row_reads_back_its_requests_and_uses_the_budget(context: Callable[..., Context]) -> None:
    made = context(sft={"batch_size": 4})
    for example in CPO(made).examples:
        assert parse(example.prompt, made.settings.preferences, "user_suffix") == example.targets
    numbers = measure("cpo", made)
    (row,) = read_rows(made.output)
    assert row.name == "cpo" and len(row.front.points) == 3 and row.control is not None
    assert row.cost.rollouts == 16 and row.cost.policies == 1 and row.cost.seconds["update"] > 0
    assert measure("cpo", made) == numbers
