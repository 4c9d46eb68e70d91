"""What answers earn: the plain question is scored, each row by its own request, and what people watch is of what was drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moslim_core.policy import penalties
from moslim_core.policy import rewards as module
from moslim_core.policy.conditioning import Example, training_examples
from moslim_core.policy.rewards import Judged, Rewards, apart, zero_variance
from moslim_core.policy.rollouts import Rollout, pair
from moslim_core.policy.settings import PolicySettings
from moslim_core.preferences import PreferenceSchema, Targets
from moslim_core.reward import empty_answers
from moslim_core.reward.mapping import RewardMapping
from moslim_core.reward.settings import MappingSettings

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


def made(scorer: Any = None, aggregation: Any = "active_mean", standardisation: Any = "none", **policy: Any) -> tuple[Rewards, Any]:
    scorer = scorer or RecordingScorer()
    mapping = MappingSettings(aggregation=aggregation, standardisation=standardisation)
    return Rewards(scorer, RewardMapping(scorer.schema, mapping), PolicySettings(**policy), Path(), torch.device("cpu")), scorer


Drawn = Sequence[tuple[str, int | None]]


def judged(
    rewards: Rewards,
    asked: Sequence[dict[str, int]],
    drawn: Drawn,
    relabel: bool = False,
    cut: Sequence[bool] = (),
    repeated: Sequence[bool] = (),
) -> Judged:
    """Of answers (text, request; None: a rated one) to one prompt under several requests."""
    examples = [Example([], "Rain?", Targets(targets), 0, []) for targets in asked]
    pairs = pair(examples, [Rollout([1], request, 0) for _, request in drawn], relabel)
    texts = [text for text, _ in drawn]
    none = [False] * len(drawn)
    return rewards(["Rain?"] * len(drawn), texts, cut or none, repeated or none, [e.targets for e in examples], pairs)


@pytest.mark.parametrize("placement", ["system", "user_prefix", "user_suffix"])
def test_reward_model_never_sees_the_instruction(placement: Any) -> None:
    prompts = [[{"role": "user", "content": f"Rain {i}?"}] for i in range(4)]
    examples = training_examples(prompts, SCHEMA, PolicySettings(steps=2, placement=placement), seed=0)
    assert sum("<preferences>" in str(e.prompt) for e in examples) > 10
    rewards, scorer = made()
    pairs = pair(examples, [Rollout([1], n, e.family) for n, e in enumerate(examples) for _ in range(2)], False)
    asked = [e for e in examples for _ in range(2)]
    rewards([e.question for e in asked], ["1 2"] * len(asked), *[[False] * len(asked)] * 2, [e.targets for e in examples], pairs)
    ((questions, answers),) = scorer.seen
    assert set(questions) == {f"Rain {i}?" for i in range(4)} and set(answers) == {"1 2"}


def test_rewards_follow_their_rows_and_each_answer_is_scored_once() -> None:
    """The ordinal reward: |c - t| / (K - 1) away from 1."""
    rewards, scorer = made()
    asked = [{"warmth": 3}, {"warmth": 1, "length": 1}, {}]
    drawn: Drawn = [("3 1", 0), ("2 2", 0), ("1 1", 1), ("3 2", 1), ("1 2", 2), ("3 1", 2)]
    plain = judged(rewards, asked, drawn)
    assert plain.rewards.tolist() == pytest.approx([1.0, 0.5, 1.0, 0.0, 0.0, 0.0])
    every = judged(rewards, asked, drawn, relabel=True)
    table = every.rewards.view(6, 3)
    assert table[:, 0].tolist() == pytest.approx([1, 0.5, 0, 1, 0, 1]) and table[:, 2].tolist() == [0] * 6
    assert table[:, 1].tolist() == pytest.approx([0.5, 0.25, 1, 0, 0.5, 0.5])
    assert torch.isnan(every.utilities.view(6, 3, 2)[:, 0, 1]).all() and not torch.isnan(every.utilities.view(6, 3, 2)[:, 1]).any()
    assert all(len(answers) == 6 for _, answers in scorer.seen)


def test_metrics_are_per_preference_and_level() -> None:
    rewards, _ = made(standardisation="batch")
    asked = [{"warmth": 3}, {"warmth": 1}, {}]
    found = judged(rewards, asked, [("3 1", 0), ("3 2", 0), ("1 1", 1), ("2 1", 1), ("2 2", 2), ("1 2", 2)]).figures
    # Utilities of warmth 1, 1, 1, 1/2: mean 7/8; group 0 does not vary, group 1 does; nobody asked for a length.
    assert found == {
        "reward": pytest.approx(0, abs=1e-9),
        "reward_std": pytest.approx(found["reward_std"]),
        "restated": 0.0,
        "zero_variance": pytest.approx(2 / 3),
        "utility/warmth": pytest.approx(0.875),
        "standardised/warmth": pytest.approx(0, abs=1e-9),
        "zero_variance/warmth": pytest.approx(0.5),
        "expected_level/warmth/1": pytest.approx(1.5),
        "expected_level/warmth/3": pytest.approx(3),
        "zero_variance/warmth/1": 0.0,
        "zero_variance/warmth/3": 1.0,
    }


# Figures that no statistics have a part in.
UTILITIES = ("utility/", "expected_level/", "judged/", "zero_variance/")


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 2)), min_size=4, max_size=4), st.integers(0, 3))
def test_what_was_not_drawn_under_a_request_moves_no_utility(levels: list[tuple[int, int]], known: int) -> None:
    """Of relabelled rows neither figures nor the mapping's statistics know; of rated answers, which have every request, the statistics."""
    asked = [{"warmth": 3, "length": 1}, {"warmth": 1}]
    drawn: Drawn = [(f"{a} {b}", n // 2) for n, (a, b) in enumerate(levels)]
    rated: Drawn = [("1 2", None)] * known
    states, figures = [], []
    for relabel, more in ((False, []), (True, rated)):
        rewards, _ = made(standardisation="running")
        found = judged(rewards, asked, [*drawn, *more], relabel).figures
        figures.append({name: value for name, value in found.items() if name.startswith(UTILITIES)})
        states.append(rewards.mapping.state())
    assert figures[0] == figures[1]
    assert (states[0] == states[1]) == (known == 0)
    assert dict(zip(("warmth", "length"), (p[-1] for p in states[1]["pooled"]), strict=True)) == {
        "warmth": len(drawn) + 2 * known, "length": len(drawn) // 2 + known,
    }  # fmt: skip


def test_a_lone_drawn_answer_does_not_say_what_rated_ones_are_worth() -> None:
    """Two of one kind have no spread: by them alone every other answer would be five deviations away."""
    drawn: Drawn = [("2 1", 0), *((f"{1 + n % 3} 1", None) for n in range(9))]
    rewards, _ = made(standardisation="batch")
    assert judged(rewards, [{"warmth": 3}], drawn).rewards.abs().max() < 2


def test_rated_answers_alone_are_measured() -> None:
    rewards, _ = made(standardisation="running")
    found = judged(rewards, [{"warmth": 3}], [("3 1", None), ("1 1", None)])
    assert found.figures == {} and found.rewards.tolist() == pytest.approx([1, -1])
    assert rewards.mapping.statistics.pooled["warmth"].rows == 2


def test_answer_that_repeats_its_instruction_earns_less_than_the_worst_under_each_request() -> None:
    asked, drawn = [{"warmth": 3}, {"warmth": 1}], [("3 1", 0), ("2 1", 0), ("1 1", 1), ("1 2", 1)]
    for settings in ({}, {"centred": True}):
        plain, found = (
            judged(made(truncation_penalty=0.5, **settings)[0], asked, drawn, True, repeated=repeated).rewards.view(4, 2)
            for repeated in ([], [True, False, False, True])
        )
        assert found[1:3].tolist() == plain[1:3].tolist()
        assert found[0].tolist() == found[3].tolist() == pytest.approx((plain.amin(dim=0) - 0.5).tolist())


def test_answer_that_was_cut_off_loses_the_penalty_under_every_request() -> None:
    asked, drawn = [{"warmth": 3}, {"warmth": 1}], [("3 1", 0), ("2 1", 0), ("1 1", 1), ("1 2", 1)]
    whole, cut = (judged(made(truncation_penalty=penalty)[0], asked, drawn, True, [True, False, False, True]) for penalty in (0.0, 0.75))
    lost = (whole.rewards - cut.rewards).view(4, 2)
    assert lost.tolist() == [[0.75, 0.75], [0, 0], [0, 0], [0.75, 0.75]]
    assert whole.figures["reward"] - cut.figures["reward"] == pytest.approx(0.375)
    assert cut.figures["utility/warmth"] == whole.figures["utility/warmth"], "the level is what it is"


def test_answer_off_its_question_s_topic_loses_the_penalty_under_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stub:
        def __init__(self, *_: Any) -> None:
            pass

        def off(self, questions: Sequence[str], answers: Sequence[str]) -> list[bool]:
            assert set(questions) == {"Rain?"}
            return [answer == "3 1" for answer in answers]

    monkeypatch.setattr(penalties, "Topic", Stub)
    asked, drawn = [{"warmth": 3}, {"warmth": 1}], [("3 1", 0), ("2 1", 0), ("1 1", 1), ("1 2", 1)]
    free, held = (judged(made(off_topic_penalty=penalty)[0], asked, drawn, True, [True, False, False, False]) for penalty in (0.0, 0.75))
    assert (free.rewards - held.rewards).view(4, 2).tolist() == [[0.75, 0.75], [0, 0], [0, 0], [0, 0]]
    assert (free.utilities - held.utilities).nan_to_num().abs().sum() == pytest.approx(2 * 0.75)
    assert "off_topic" not in free.figures and held.figures["off_topic"] == 0.25


def test_answer_that_only_says_its_question_again_loses_the_penalty_under_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(empty_answers, "restates", lambda question, answer: question == "Rain?" and answer == "2 1")
    asked, drawn = [{"warmth": 3}, {"warmth": 1}], [("3 1", 0), ("2 1", 0), ("1 1", 1), ("1 2", 1)]
    free, held = (judged(made(restatement_penalty=penalty)[0], asked, drawn, True) for penalty in (0.0, 0.75))
    assert (free.rewards - held.rewards).view(4, 2).tolist() == [[0, 0], [0.75, 0.75], [0, 0], [0, 0]]
    assert free.figures["restated"] == held.figures["restated"] == 0.25


def test_figures_of_several_processes_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [{"warmth": 3}, {"warmth": 1, "length": 2}]
    drawn: Drawn = [("3 1", 0), ("2 2", 0), ("1 1", 1), ("3 2", 1)]
    alone = judged(made()[0], asked, drawn).figures
    others: list[Any] = []
    # The last one has rated answers alone, and joins in all the same: the others would wait for it.
    for request, own in ((0, drawn[:2]), (1, drawn[2:]), (1, [("1 1", None), ("2 1", None)])):
        monkeypatch.setattr(module, "parts", lambda part: (others.append(part), list(others))[1])
        found = judged(made()[0], [asked[request]], [(text, None if of is None else 0) for text, of in own]).figures
    assert found == pytest.approx(alone) and len(others) == 3


def test_beginnings_are_scored_once_a_text() -> None:
    rewards, scorer = made()
    examples = [Example([], "Rain?", Targets(targets), 0, []) for targets in ({"warmth": 3}, {"warmth": 1})]
    pairs = pair(examples, [Rollout([1], 0, 0), Rollout([1], 1, 0)], True)
    found = rewards.beginnings(["Rain?"] * 2, [["1 1", "3 1"], ["1 1", "1 1"]], [e.targets for e in examples], pairs)
    assert found.tolist() == [[0, 1], [1, 0], [0, 0], [1, 1]]
    assert scorer.seen == [(["Rain?", "Rain?"], ["1 1", "3 1"])]


def test_rules_say_beside_the_reward_model_how_near_answers_are() -> None:
    rule = {"measure": "word_count", "thresholds": [1]}
    ruled = PreferenceSchema.model_validate([SCHEMA["warmth"].model_dump(), {**SCHEMA["length"].model_dump(), "annotator": rule}])

    class Sure(RecordingScorer):
        schema = ruled

        def __call__(self, questions: list[str], answers: list[str]) -> dict[str, np.ndarray]:
            return {"warmth": np.full((len(answers), 3), 1 / 3), "length": np.array([[0.0, 1.0]] * len(answers))}

    rewards, _ = made(scorer=Sure())
    found = judged(rewards, [{"length": 2}, {"warmth": 1}], [("one", 0), ("one", 0), ("one two", 0), ("one", 1), ("one", 1)]).figures
    # The reward model takes all for long; the rule only one of the three that were asked to be.
    assert found["utility/length"] == 1 and found["judged/length"] == pytest.approx(1 / 3)
    assert "judged/warmth" not in found


def test_zero_variance() -> None:
    values, group = np.array([1, 2, 5, 5, 5, 7]), np.array([0, 0, 1, 1, 2, 2])
    assert zero_variance(values, group) == pytest.approx(1 / 3)
    assert zero_variance(values[[0, 2, 4, 1, 3, 5]], group[[0, 2, 4, 1, 3, 5]]) == pytest.approx(1 / 3)
    # An answer alone differs from nothing, and says nothing.
    assert zero_variance(values[1:], group[1:]) == pytest.approx(1 / 2) and zero_variance(values[1:3], group[1:3]) is None


def test_broken_head_stops_the_run_and_names_the_prompt() -> None:
    class Broken(RecordingScorer):
        def __call__(self, questions: list[str], answers: list[str]) -> dict[str, np.ndarray]:
            return {p.name: np.full((len(answers), p.k), np.nan) for p in SCHEMA.preferences}

    rewards, _ = made(scorer=Broken())
    with pytest.raises(RuntimeError, match=r"'Rain\?'.*the warmth head"):
        judged(rewards, [{"warmth": 1}], [("a", 0), ("b", 0)])


def test_what_is_good_under_all_requests_alike_counts_for_nothing_where_it_is_centred() -> None:
    """Warmth is wanted at 1 and at 3, length at 2 by both; a middling answer earns a half for warmth under either."""
    asked = [{"warmth": 1, "length": 2}, {"warmth": 3, "length": 2}]
    drawn: Drawn = [("1 2", None), ("2 2", None), ("3 1", 0)]
    plain, _ = made()
    rewards, _ = made(aggregation="sum", truncation_penalty=0.25, centred=True)
    found = judged(rewards, asked, drawn, relabel=True, cut=[False, True, False])
    assert found.rewards.tolist() == [1.5, 0.5, 0.75, 0.75, -0.5, 0.5]
    # What is wanted at one level only is not centred, and neither are figures.
    assert found.utilities[:, 1].tolist() == [1, 1, 0.75, 0.75, 0, 0]
    assert found.figures["reward"] == pytest.approx(judged(made(aggregation="sum")[0], asked, drawn, relabel=True).figures["reward"])
    assert judged(plain, asked, drawn, relabel=True).utilities[:, 0].tolist() == [1, 0, 0.5, 0.5, 0, 1]


def test_a_preference_that_some_requests_leave_open_is_centred_over_the_others() -> None:
    nan = float("nan")
    found = apart(torch.tensor([[0.2, 0.6, nan], [1.0, nan, nan]]), torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]]))
    assert torch.allclose(found, torch.tensor([[-0.2, 0.2, nan], [1.0, nan, nan]]), equal_nan=True)
