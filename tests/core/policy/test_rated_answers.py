"""Answers of the rated data as rollouts: which count, and that the same seed takes the same, however many processes there are."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from moslim_core.data.rows import write_json_lines
from moslim_core.errors import UserError
from moslim_core.policy.conditioning import training_examples
from moslim_core.policy.rated_answers import RatedAnswers
from moslim_core.policy.settings import PolicySettings
from moslim_core.policy.steps import Steps
from moslim_core.preferences import PreferenceSchema
from tests.core.policy.recorded_run import END, Recorded
from tests.core.policy.runs import PREFERENCES, RATED, prompts, write_rows


@pytest.fixture(scope="module")
def tokenizer(tiny_chat: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_chat)


def rated(folder: Path, tokenizer: Any, max_new_tokens: int = 6) -> RatedAnswers:
    write_rows(folder)
    return RatedAnswers(folder / "train.jsonl", tokenizer, [END], max_new_tokens)


def test_answers_end_and_those_that_are_too_long_are_left_out(tokenizer: Any, tmp_path: Path) -> None:
    known = rated(tmp_path, tokenizer).of(prompts()[0], 99, random.Random(0))
    assert all(ids[-1] == END and ids.count(END) == 1 and len(ids) <= 6 for ids in known)
    assert sorted(tokenizer.decode(ids[:-1]) for ids in known) == sorted(RATED[:-1])
    few = rated(tmp_path, tokenizer, 3).of(prompts()[0], 99, random.Random(0))
    assert sorted(tokenizer.decode(ids[:-1]) for ids in few) == ["good", "no"]
    assert len(rated(tmp_path, tokenizer).of(prompts()[0], 2, random.Random(0))) == 2
    assert rated(tmp_path, tokenizer).of([{"role": "user", "content": "Snow?"}], 2, random.Random(0)) == []


def test_the_same_answer_counts_once(tokenizer: Any, tmp_path: Path) -> None:
    rows = ({"prompt": prompts()[0], "response": "good", "labels": {}, "source": source} for source in ("one", "other"))
    write_json_lines(tmp_path / "train.jsonl", rows)
    assert len(RatedAnswers(tmp_path / "train.jsonl", tokenizer, [END], 6).of(prompts()[0], 9, random.Random(0))) == 1


@pytest.mark.parametrize(
    ("answers", "sentences"),
    [(["good.", "no!", "rain?"], True), (["雨。", "Rain (mostly)", "no \u2026 "], True), (["good.", "no"], False), ([], False)],
)
def test_whether_rated_answers_end_as_sentences_do(answers: list[str], sentences: bool, tokenizer: Any, tmp_path: Path) -> None:
    rows = ({"prompt": prompts()[0], "response": answer, "labels": {}, "source": "made"} for answer in answers)
    write_json_lines(tmp_path / "train.jsonl", rows)
    assert RatedAnswers(tmp_path / "train.jsonl", tokenizer, [END], 64).sentences is sentences


def test_prompts_without_two_answers_are_left_out(tokenizer: Any, tmp_path: Path) -> None:
    found = rated(tmp_path, tokenizer)
    other = [{"role": "user", "content": "Snow?"}]
    assert found.prompts([*prompts(), other]) == prompts()
    with pytest.raises(UserError, match=r"none of the 1 training prompts has two rated answers that end within policy\.max_new_tokens"):
        found.prompts([other])
    with pytest.raises(UserError, match=r"Raise policy\.max_new_tokens, give data with several answers a prompt, or set rated_answers=0"):
        rated(tmp_path, tokenizer, 2).prompts(prompts())


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_same_seed_same_answers_whatever_the_number_of_processes(share: float, tokenizer: Any, tmp_path: Path) -> None:
    policy = PolicySettings(rated_answers=share, prompts_per_step=4, targets_per_prompt=3, group_size=2, steps=1, max_new_tokens=6)
    schema = PreferenceSchema.model_validate(PREFERENCES)
    examples = training_examples(prompts(), schema, policy, 0)
    nothing: Any = None
    steps = Steps(policy, Recorded(nothing, policy, None), nothing, nothing, rated(tmp_path, tokenizer))

    def drawn(first: int, last: int, seed: int = 5) -> list[tuple[int, tuple[int, ...]]]:
        own = examples[first * 3 : last * 3]
        rollouts, chances = steps.draw(own, [[100 + e.family, n] for n, e in enumerate(own)], seed)
        assert chances is None
        for family in range(first, last):
            mine = [r for r in rollouts if r.family == family]
            # Five rated answers are known that are short enough; six are wanted where all are to be rated.
            assert sum(r.request is None for r in mine) == (3 if share == 0.5 else 5)
            assert sum(r.request is not None for r in mine) == (3 if share == 0.5 else 0)
        return sorted((r.family, tuple(r.ids)) for r in rollouts if r.request is None)

    assert drawn(0, 4) == sorted(drawn(0, 2) + drawn(2, 4)) == sorted(answer for n in range(4) for answer in drawn(n, n + 1))
    assert drawn(0, 4) != drawn(0, 4, seed=6) or share == 1
