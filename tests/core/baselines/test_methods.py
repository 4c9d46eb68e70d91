"""Compared systems: what each of them is, pinned on tiny models."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from moslim_core.baselines import OWN, START, best_of_n, clp, methods, mo_odpo, modpo, ours, rlphf, steerlm2
from moslim_core.baselines.experts import Expert, PlainExamples, best_levels, expert_settings
from moslim_core.baselines.levels_by_weights import LevelsByWeights
from moslim_core.baselines.measure import measure, method_of, read_answers, read_rows, suitability
from moslim_core.baselines.method import Asked, Context, Method, rollouts
from moslim_core.data.rows import read_json_lines
from moslim_core.errors import UserError
from moslim_core.evaluation.joint_requests import requests_together
from moslim_core.policy import training
from moslim_core.policy.generation import Answer
from moslim_core.preferences import PreferenceSchema, Targets, parse
from moslim_core.registry import baseline, optimiser
from moslim_core.reward.mapping import RewardMapping
from moslim_core.settings_section import changed
from moslim_core.training.progress import Progress
from tests.core.baselines.weights import weights_of

Make = Callable[..., Context]


def test_every_name_has_a_method_and_every_row_one_name() -> None:
    assert next(iter(methods())) == START and set(ours()) < set(methods()) and OWN not in methods()
    assert all(issubclass(method_of(name), Method) for name in methods())
    rows = [row for name in methods() for row in ((name,) if name in ours() else method_of(name).rows)]
    assert len(set(rows)) == len(rows) and set(methods()) <= set(rows)
    assert list(ours().values()) == optimiser.names


def test_the_budget_is_shared_out_and_never_less_than_the_settings(context: Make) -> None:
    made = context(steps=5)
    own = expert_settings(made.settings, made.schema, np.array([0.5, 0.5]), 3, "none").policy
    assert own.steps == 2 and 3 * rollouts(own, own.steps) >= rollouts(made.settings.policy, 5)
    assert rollouts(own, 1) == rollouts(made.settings.policy, 1)


def test_an_expert_is_the_mean_of_as_large_a_part_of_its_steps(context: Make) -> None:
    made = context(steps=12, average_steps=6)
    shares = {k: expert_settings(made.settings, made.schema, np.array([0.5, 0.5]), k, "none").policy for k in (1, 3, 4, 12)}
    assert {k: (own.steps, own.average_steps) for k, own in shares.items()} == {1: (12, 6), 3: (4, 2), 4: (3, 2), 12: (1, 1)}


def test_the_best_level_is_the_one_that_scores_highest() -> None:
    schema = PreferenceSchema.model_validate(
        [{"name": "harm", "levels": ["none", "some"], "direction": "lower_is_better"}, {"name": "help", "levels": ["a", "b", "c"]}]
    )
    assert best_levels(schema) == Targets({"harm": 1, "help": 3})


def test_morlhf_at_a_corner_is_the_run_for_that_preference_alone(context: Make) -> None:
    made = context()
    corner = Expert(made, "corner", np.array([1.0, 0.0]), 1)
    corner.train()
    alone = Expert(made, "alone", np.array([1.0, 1.0]), 1)
    training.train(
        alone.settings,
        made.rows,
        made.reward_model,
        made.cache,
        made.work / "checkpoints" / "alone",
        alone.folder,
        Progress(),
        PlainExamples(Targets({"length": 3})),
    )
    one, other = weights_of(corner.folder), weights_of(alone.folder)
    assert all(torch.equal(one[key], other[key]) for key in one) and any(one[key].abs().max() > 0 for key in one if "lora_B" in key)
    corner.train()
    assert corner.rollouts == 4 * 4


def test_an_expert_reads_no_instruction(context: Make) -> None:
    made = context()
    (example, *_) = PlainExamples(best_levels(made.schema))([[{"role": "user", "content": "Rain?"}]], made.schema, made.settings.policy, 0)
    assert example.prompt == [{"role": "user", "content": "Rain?"}] and example.targets == Targets({"length": 3, "warmth": 2})


class AtWeights:
    """Says at which weights of its first preference it answers."""

    def __init__(self, weights: Sequence[float]) -> None:
        self.first = round(weights[0], 2)

    def answers(self, what: str, conversations: Sequence[Any], sampling: Any) -> list[Answer | None]:
        return [Answer(text=f"{self.first}", tokens=1, truncated=False)] * len(conversations)


@pytest.mark.parametrize("free_points", [False, True])
def test_a_level_is_asked_of_a_weighted_method_where_it_is_nearest(
    context: Make, monkeypatch: pytest.MonkeyPatch, free_points: bool
) -> None:
    """The operating points 1, 0.5 and 0 are 3, 1.5 and 1 long: 2 is nearest to 0.5, and, where points are free, to 0.67."""
    made = context()
    monkeypatch.setattr(Context, "typical_levels", lambda self, who, what: {"length": 1 + 2 * who.first**2, "warmth": 2 - who.first})
    asked: list[float] = []

    def at(row: str, weights: np.ndarray) -> AtWeights:
        asked.append(round(weights[0], 2))
        return AtWeights(weights.tolist())

    levels = LevelsByWeights(cast(Method, SimpleNamespace(trained=True, free_points=free_points, at=at)), "row", made)
    middle = "0.67" if free_points else "0.5"
    one = ("length", 1), ("length", 2), ("length", 3), ("warmth", 1), ("warmth", 2)
    expected = dict(zip(one, ["0.0", middle, "1.0", "1.0", "0.0"], strict=True))
    assert {next(iter(a.targets.items())): a.text for a in levels.alone()} == expected
    (both,) = levels.together([(1, Targets({"length": 2, "warmth": 1}))])
    assert (both.prompt, both.targets) == (1, {"length": 2, "warmth": 1})
    # Beside the operating points ten more are looked at, and what is chosen is asked once.
    assert len(asked) == 3 + (10 + len({middle, both.text} - {"0.0", "0.5", "1.0"}) if free_points else 0)


def test_what_is_known_for_calibration_is_no_evaluation_prompt(context: Make) -> None:
    made = context()
    assert len(made.known_prompts) == len(made.prompts) == 2
    assert not any(prompt in made.prompts for prompt in made.known_prompts)


def test_settings_suit_by_what_the_reward_model_sees_in_training_prompts(context: Make) -> None:
    """Scores go to 1 where they are favoured: 1 at both corners, and a half of 1 and a half of 0.5 in the middle."""
    made = context()
    typical = [{"length": 3.0, "warmth": 1.0}, {"length": 3.0, "warmth": 1.5}, {"length": 1.0, "warmth": 2.0}]
    assert suitability(typical, made) == pytest.approx((1 + 0.75 + 1) / 3)


def test_rlphf_asks_for_sets_of_best_levels_and_adds_up_their_rewards(context: Make) -> None:
    made = context(steps=6, targets_per_prompt=3)
    method = rlphf.RLPHF(made)
    prompts = [[{"role": "user", "content": "Rain?"}]]
    examples = method.policy.examples_of(prompts, made.schema, method.policy.settings.policy, 0)
    asked = Counter(tuple(sorted(e.targets.items())) for e in examples)
    assert asked == {(("length", 3),): 6, (("warmth", 2),): 6, (("length", 3), ("warmth", 2)): 6}
    assert [parse(e.prompt, made.schema, "user_suffix") for e in examples] == [e.targets for e in examples]
    mapping = RewardMapping(made.schema, method.policy.settings.mapping)
    p = {"length": np.array([[0.0, 0.5, 0.5]] * 2), "warmth": np.array([[0.2, 0.8]] * 2)}
    both, alone = mapping(p, [Targets({"length": 3, "warmth": 2}), Targets({"warmth": 2})]).rewards
    assert (both, alone) == (pytest.approx(0.75 + 0.8), pytest.approx(0.8))
    method.train()
    for weights, wanted in (([0.0, 1.0], {"warmth": 2}), ([0.1, 0.9], {"length": 3, "warmth": 2})):
        assert method.at("rlphf", np.array(weights)).targets == Targets(wanted)


def test_mo_odpo_states_the_weights_that_its_rewards_are_added_up_by(context: Make) -> None:
    made = context(steps=40, targets_per_prompt=3)
    method = mo_odpo.MOODPO(made)
    prompts = [[{"role": "user", "content": "Rain?"}]]
    examples = method.policy.examples_of(prompts, made.schema, method.policy.settings.policy, 0)
    drawn = np.array([[e.targets.weight(name) for name in made.schema.names] for e in examples])
    # A flat Dirichlet distribution of two weights is uniform.
    assert np.allclose(drawn.sum(axis=1), 1) and len({e.targets for e in examples}) == len(examples)
    assert drawn[:, 0].mean() == pytest.approx(0.5, abs=0.05) and drawn[:, 0].std() == pytest.approx(12**-0.5, abs=0.03)
    length, warmth = drawn[0]
    assert examples[0].prompt == [{"role": "user", "content": f"[length {length:.1f}, warmth {warmth:.1f}]\nRain?"}]
    mapping = RewardMapping(made.schema, method.policy.settings.mapping)
    p = {"length": np.array([[0.0, 0.5, 0.5]]), "warmth": np.array([[0.2, 0.8]])}
    assert mapping(p, [examples[0].targets]).rewards == pytest.approx(0.75 * length + 0.8 * warmth)
    method.train()
    assert method.at("mo_odpo", np.array([0.25, 0.75])).wording(prompts[0])[0]["content"] == "[length 0.2, warmth 0.8]\nRain?"


def test_mo_odpo_trains_by_online_dpo_or_says_so_beforehand(context: Make) -> None:
    made = context(optimiser="rloo", credit="token")
    assert mo_odpo.MOODPO(made).policy.settings.policy.optimiser == "online_dpo"
    mo_odpo.MOODPO.require_fit(made.settings)
    with pytest.raises(UserError, match=r"mo_odpo trains by Online DPO whatever the profile does: .*beta=0"):
        mo_odpo.MOODPO.require_fit(context(optimiser="rloo", beta=0.0).settings)


def test_modpo_learns_one_preference_with_the_others_as_a_margin() -> None:
    """Against the source's formula, pair by pair; and its gradient is 0 where pi / pi_ref ~ exp(r / beta) of the weighted sum."""
    generator = torch.Generator().manual_seed(0)
    ratios, utilities = torch.randn(3, 1, generator=generator), torch.rand(3, 1, 2, generator=generator)
    weights, beta = torch.tensor([0.5, 1.5]), 0.1
    losses = modpo.margin_losses(ratios, utilities @ weights, utilities, weights, beta)
    strength, share = 2.0, 0.75
    for first in range(3):
        expected = []
        for second in set(range(3)) - {first}:
            apart = beta * float(ratios[first, 0] - ratios[second, 0])
            other, own = (utilities[first, 0] - utilities[second, 0]).tolist()
            chance = 1 / (1 + math.exp(-(apart - 0.5 * other) / share))
            better = 1 / (1 + math.exp(-strength * own))
            expected.append(-better * math.log(chance) - (1 - better) * math.log(1 - chance))
        assert float(losses[first, 0]) == pytest.approx(sum(expected) / 2, rel=1e-5)
    # What an answer loses besides comes off each r_i and once off their sum.
    lost = torch.tensor([[0.0], [1.0], [0.0]])
    best = ((utilities @ weights - lost) / beta).requires_grad_()
    modpo.margin_losses(best, utilities @ weights - lost, utilities - lost.unsqueeze(2), weights, beta).sum().backward()
    assert best.grad is not None and best.grad.abs().max() < 1e-6


def test_clp_learns_the_parts_of_one_adapter_by_the_mixture_of_each_step(context: Make) -> None:
    made = context(steps=3, prompts_per_step=2)
    method = clp.CLP(made)
    policy = method.policy.settings.policy
    assert policy.lora_rank == 4
    examples = method.policy.examples_of(made.training_prompts, made.schema, policy, made.settings.seed)
    given = [[e.targets.weight(name) for name in made.schema.names] for e in examples]
    mixtures = [clp.weights_of(step, 2, made.settings.seed) for step in range(3)]
    assert given == [mixture for mixture in mixtures for _ in range(2)] and not np.allclose(mixtures[0], mixtures[1])
    assert {e.prompt[-1]["content"] for e in examples} <= {p[-1]["content"] for p in made.training_prompts}, "nothing is said in the prompt"

    base, _ = made.chat_model(made.settings.model.base)
    learner = method.policy.learner(base, policy, None)
    name = next(name for name in learner.used if "lora_A" in name)
    used, kept = learner.used[name], learner.learning[name]
    rows = torch.tensor(mixtures[0]).repeat_interleave(2).unsqueeze(1)
    assert torch.allclose(used, kept * rows), "in use is the mixture of the step"
    # The loss is a sum over the factor in use: each part's gradient is its weight.
    used.sum().backward()
    learner._collect()
    assert kept.grad is not None and torch.allclose(kept.grad, rows.expand_as(kept)) and used.grad is None
    for parameter in learner.learning.values():
        parameter.grad = torch.ones_like(parameter)
    learner._step(1.0)
    rows = torch.tensor(mixtures[1]).repeat_interleave(2).unsqueeze(1)
    assert torch.allclose(used, kept * rows), "and of the next one after its update"


def test_clp_answers_by_the_mixture_of_a_point(context: Make) -> None:
    """At a corner its policy is the base with one part alone; and the parts are no copies of one another."""
    made = context()
    method = clp.CLP(made)
    method.train()
    saved = weights_of(method.policy.folder)
    name = next(name for name in saved if "lora_A" in name)
    factor, other = saved[name].float(), saved[name.replace("lora_A", "lora_B")].float()
    assert not torch.allclose(other[:, :2], other[:, 2:])
    base, _ = made.chat_model(made.settings.model.base)
    module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
    before = base.get_submodule(module).weight.detach().clone()
    corner = method.at("clp", np.array([1.0, 0.0]))
    assert isinstance(corner, Asked)
    after = corner.system.model.get_submodule(module).weight.detach()
    # PEFT scales the product by alpha / rank = 2.
    assert torch.allclose(after - before, 2 * other[:, :2] @ factor[:2], atol=1e-6)


def test_modpo_draws_nothing(context: Make) -> None:
    made = context(optimiser="rloo", credit="token", rated_answers=0.0)
    expert = modpo.MODPO(made).expert(np.array([0.25, 0.75]))
    assert (expert.settings.policy.optimiser, expert.settings.policy.rated_answers) == ("online_dpo", 1.0)
    assert expert.optimiser is modpo.MarginDPO
    with pytest.raises(UserError, match=r"modpo trains by Online DPO whatever the profile does: .*beta=0"):
        modpo.MODPO.require_fit(context(optimiser="rloo", beta=0.0).settings)


def test_steerlm2_goes_from_the_shares_that_answers_have_to_those_of_their_likelihood() -> None:
    """Its gradient is the source's, -sum (w - b) grad log Q, and 0 where the policy is P(a | x, y) P(y | x) among the answers."""
    generator = torch.Generator().manual_seed(0)
    log_q, log_p, likelihood = (torch.randn(3, 2, generator=generator) for _ in range(3))
    log_q.requires_grad_()
    steerlm2.share_losses(log_q - log_p, likelihood).sum().backward()
    odds, shares = likelihood.exp(), (log_q - log_p).detach().exp()
    assert log_q.grad is not None
    assert torch.allclose(log_q.grad / 3, shares / shares.sum(dim=0) - odds / odds.sum(dim=0), atol=1e-6)
    best = (likelihood + 5.0).requires_grad_()
    steerlm2.share_losses(best, likelihood).sum().backward()
    assert best.grad is not None and best.grad.abs().max() < 1e-6


def test_steerlm2_is_asked_for_levels_and_learns_how_probable_they_are(context: Make) -> None:
    made = context(optimiser="rloo", centred=True)
    policy = steerlm2.SteerLM2(made).policy
    assert policy.optimiser is steerlm2.LevelMatching and not policy.settings.policy.centred
    mapping = RewardMapping(made.settings.preferences, policy.settings.mapping)
    probabilities = {"length": np.array([[0.2, 0.3, 0.5]]), "warmth": np.array([[0.6, 0.4]])}
    rewards = mapping(probabilities, [Targets({"length": 3, "warmth": 2})]).rewards
    assert np.allclose(rewards, math.log(0.5 * 0.4))
    with pytest.raises(UserError, match=r"steerlm2 trains by Online DPO whatever the profile does: .*beta=0"):
        steerlm2.SteerLM2.require_fit(context(optimiser="rloo", beta=0.0).settings)


def test_a_compared_method_has_preferences_as_certain_as_the_profile(context: Make) -> None:
    made = context()
    mapping = changed(made.settings.mapping, aggregation="sum", weights={"length": 3.0, "warmth": 1.0})
    strong = changed(made.settings, mapping=mapping)
    one = expert_settings(strong, made.schema, np.array([0.25, 0.75]), 1, "none").mapping
    assert one.weights == {"length": pytest.approx(0.5), "warmth": pytest.approx(1.5)}
    assert expert_settings(strong, made.schema, np.array([0.25, 0.75]), 1, "running").mapping.weights == {"length": 0.25, "warmth": 0.75}


def test_best_of_n_has_a_higher_training_reward_with_more_answers(context: Make) -> None:
    made = context()
    method = best_of_n.BestOfN(made)
    assert method.n == 3  # 16 answers of training over 3 points of 2 prompts
    targets = Targets({"length": 3, "warmth": 2})
    found = []
    for n in (1, 4, 16):
        mapping = made.settings.mapping.model_copy(update={"standardisation": "none"})
        best = best_of_n.BestOf(method.start.under(targets), n, made.scorer, mapping, made.penalties)
        answers = [a for a in best.answers(f"best of {n}", made.prompts, made.sampling) if a is not None]
        found.append(best.rewards([p[0]["content"] for p in made.prompts], answers).mean())
    assert found[0] < min(found[1:])


def test_best_of_n_picks_less_penalties(context: Make) -> None:
    made = context(truncation_penalty=2.0, restatement_penalty=1.0)
    best = best_of_n.BestOfN(made).under(Targets({"length": 3}))
    assert isinstance(best, best_of_n.BestOf)
    free = replace(best, penalties=context().penalties)
    questions, answers = (
        ["How do bees fly?"] * 3,
        [Answer("They flap.", 3, False), Answer("They flap and", 3, True), Answer("Bees fly!", 3, False)],
    )
    assert best.rewards(questions, answers) == pytest.approx(free.rewards(questions, answers) - [0, 2, 1])


def test_normalised_rewards_are_all_that_tells_the_two_morlhf_apart(context: Make) -> None:
    made, weights = context(), np.array([0.25, 0.75])
    raw, normalised = (baseline[name](made).expert(weights) for name in ("morlhf", "morlhf_normalised"))
    assert raw.settings.mapping.standardisation == "none" and normalised.settings.mapping.standardisation == "running"
    assert raw.settings.mapping.weights == normalised.settings.mapping.weights == {"length": 0.25, "warmth": 0.75}
    assert raw.settings.policy == normalised.settings.policy and raw.folder != normalised.folder


@pytest.mark.parametrize(
    "name", ["prompt_only", "best_of_n", "morlhf", "rewarded_soups", "bone_soups", "rlphf", "mo_odpo", "modpo", "clp", "steerlm2"]
)
def test_every_row_has_a_front_and_a_cost(name: str, context: Make) -> None:
    made = context()
    numbers = measure(name, made)
    rows, method = read_rows(made.output), baseline[name]
    assert {row.name for row in rows} == set(method.rows)
    assert len({*made.work.rglob("adapter_config.json")}) == (method.kept(made.settings) if method.trained else 0)
    for row in rows:
        assert len(row.front.points) == 3 and f"{row.name}/front/hypervolume" in numbers
        assert row.control.preferences["length"].answers == 6
        # Two prompts, each asked once for both preferences at levels of its own.
        *_, together = read_answers(made.output, row)
        assert [(one.prompt, dict(one.targets)) for one in together] == requests_together(made.settings.preferences, [], 2, 1, 3)
        several = {"morlhf": 3, "modpo": 3, "rewarded_soups": 2, "bone_soups": 2, "prompt_only": 0, "best_of_n": 0}
        assert row.cost.policies == several.get(name, 1)
        assert row.cost.rollouts == 0 if row.cost.policies == 0 else row.cost.rollouts >= 16
        # Two prompts, two attacks, two preferences, both ends of each.
        assert row.attacked is not None and row.attacked.prompts == 2
        assert len([*read_json_lines(made.output / f"attacked.{row.name}.jsonl")]) == 16
        known = row.benchmarks["known_answers"].result
        assert known.items == 3 and known.measures["contains_answer"].overall.judged == 3
        assert known.measures["surprise"].overall.mean.value == numbers[f"{row.name}/known_answers/surprise"]
    assert measure(name, made) == numbers, "what is there is not done again, and gives the same"
