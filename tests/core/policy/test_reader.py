"""What counts as said, and as a whole answer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from moslim_core.policy.conditioning import Example
from moslim_core.policy.reader import Reader
from moslim_core.policy.rewards import Judged
from moslim_core.policy.rollouts import Rollout, pair
from moslim_core.policy.settings import PolicySettings
from moslim_core.policy.steps import Steps
from moslim_core.preferences import PreferenceSchema, Targets

END = 2


class Recording:
    """Rewards that note what they are given about the answers."""

    scorer = SimpleNamespace(schema=PreferenceSchema.model_validate([{"name": "warmth", "levels": ["cold", "warm"]}]))

    def __init__(self) -> None:
        self.scored: list[tuple[list[str], list[bool], list[bool]]] = []

    def __call__(self, questions: Any, texts: list[str], cut: list[bool], repeated: list[bool], targets: Any, pairs: Any) -> Judged:
        self.scored.append((texts, cut, repeated))
        return Judged(torch.zeros(len(pairs.own)), torch.zeros(len(pairs.own), 1), {})


def test_an_answer_that_repeats_its_instruction_or_says_nothing_is_scored_as_one_that_was_cut(tiny_chat: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_chat)
    rewards = Recording()
    said = ["Yes.", "Yes.</preferences>", "<preferences>Answer style: cold</preferences>", "Yes. Warmth 2/2.", "Yes. I"]
    answers = [[*tokenizer(text)["input_ids"], END] for text in said[:4]] + [tokenizer(said[4])["input_ids"], [END]]
    rollouts = [Rollout(ids, 0, 0) for ids in answers]
    examples = [Example([], "Rain?", Targets(), 0, [])]
    steps: Any = Steps(PolicySettings(), None, rewards, Reader(tokenizer, [END]), None)  # type: ignore[arg-type]
    _, _, figures = steps.judge(examples, rollouts, pair(examples, rollouts, False))
    assert rewards.scored == [
        (
            ["Yes.", "Yes.", "", "Yes. Warmth 2/2.", "Yes. I", ""],
            [False, True, True, False, True, True],
            [False, True, True, True, False, False],
        )
    ]
    assert figures["truncated"] == pytest.approx(4 / 6) and figures["repeats_instruction"] == 0.5


@pytest.mark.parametrize(("sentences", "cut"), [(True, [False, True, False]), (False, [False, False, False])])
def test_a_heading_breaks_off_where_rated_answers_are_sentences(sentences: bool, cut: list[bool], tiny_chat: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_chat)

    rewards = Recording()
    rollouts = [Rollout([*tokenizer(text)["input_ids"], END], 0, 0) for text in ("It rains.", "Rain and snow", 'She said "rain!"')]
    examples = [Example([], "Rain?", Targets(), 0, [])]
    rated: Any = SimpleNamespace(sentences=sentences)
    steps: Any = Steps(PolicySettings(), None, rewards, Reader(tokenizer, [END]), rated)  # type: ignore[arg-type]
    _, _, figures = steps.judge(examples, rollouts, pair(examples, rollouts, False))
    # None of them was cut at the limit, which is what the report shows.
    assert figures["truncated"] == 0
    assert [found for _, found, _ in rewards.scored] == [cut]
