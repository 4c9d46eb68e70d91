"""What a stage's result depends on, and what it does not: only that makes a finished run useless."""

from __future__ import annotations

import pytest

from flows.profile import load
from tasks.stages import compare_systems, train_policy

DEMO = load("demo")


@pytest.mark.parametrize("change", ["policy.ppo.discount=0.9", "policy.grpo.normalise=per_preference", "policy.sft.epochs=3"])
def test_what_a_policy_does_not_use_is_no_reason_to_train_it_again(change: str) -> None:
    assert train_policy.section(load("demo", [change])) == train_policy.section(DEMO)


@pytest.mark.parametrize(
    ("with_it", "change"),
    [
        (["policy.optimiser=ppo"], "policy.ppo.discount=0.9"),
        (["policy.optimiser=grpo", "policy.relabel=false"], "policy.grpo.normalise=per_preference"),
        (["policy.warm_start=conditioned_sft"], "policy.sft.epochs=3"),
        ([], "policy.beta=0.03"),
    ],
)
def test_what_it_uses_is(with_it: list[str], change: str) -> None:
    assert train_policy.section(load("demo", [*with_it, change])) != train_policy.section(load("demo", with_it))


def test_systems_that_learn_from_rated_answers_depend_on_how() -> None:
    other = load("demo", ["policy.sft.epochs=3"])
    changed = {name for name, stage in compare_systems.stages().items() if stage.section(other) != stage.section(DEMO)}
    assert changed == {"ric", "cpo"}


def test_only_what_reads_the_mapping_depends_on_it() -> None:
    def changed(by: str) -> set[str]:
        other = load("demo", [by])
        return {name for name, stage in compare_systems.stages().items() if stage.section(other) != stage.section(DEMO)}

    assert changed("mapping.utility=target_probability") == {"best_of_n"}
    assert changed("mapping.weights.warmth=4") == set(compare_systems.stages())


@pytest.mark.parametrize("change", ["together=9", "topic=false", "operating_points=9", "bootstrap=900"])
def test_all_systems_depend_on_how_they_are_measured(change: str) -> None:
    other = load("demo", [f"evaluation.{change}"])
    assert [name for name, stage in compare_systems.stages().items() if stage.section(other) == stage.section(DEMO)] == []
