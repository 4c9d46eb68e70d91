"""Answers come in order, are the same for the same seed, and say whether they were cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moslim_core import models
from moslim_core.errors import UserError
from moslim_core.policy import generation
from moslim_core.policy.generation import Sampling, generate
from moslim_core.preferences import prompt_tokens

WORDS = ["rain", "snow and rain", "How do I bake bread at home?", "fox", "The quick brown fox jumps over the lazy dog."]
CONVERSATIONS = [[{"role": "user", "content": f"{i} {w}"}] for i, w in enumerate(WORDS * 2)]


@pytest.fixture(scope="module")
def chat(tiny_chat: Path) -> tuple[Any, Any]:
    model, tokenizer = models.load_chat_model(str(tiny_chat), tiny_chat, "float32", "cpu")
    model.generation_config.eos_token_id = list(range(0, 380, 8))  # a random model seldom finds the one true end
    return model, tokenizer


def test_greedy_answers_depend_on_neither_batch_nor_order(chat: tuple[Any, Any]) -> None:
    whole = generate(*chat, CONVERSATIONS, Sampling(8, temperature=0), seed=0)
    assert len({a.text for a in whole}) > 3
    single = generate(*chat, CONVERSATIONS, Sampling(8, temperature=0, batch_size=3), seed=5)
    back = generate(*chat, CONVERSATIONS[::-1], Sampling(8, temperature=0), seed=0)
    assert whole == single == back[::-1]


def test_sampling_is_reproducible_by_seed(chat: tuple[Any, Any]) -> None:
    one, again, other = (generate(*chat, CONVERSATIONS, Sampling(8, batch_size=4), seed=s) for s in (1, 1, 2))
    assert one == again != other


def test_cut_answers_are_told_from_finished_ones(chat: tuple[Any, Any]) -> None:
    done: list[int] = []
    answers = generate(*chat, CONVERSATIONS * 3, Sampling(6, batch_size=16), seed=0, on_batch=done.append)
    assert {a.truncated for a in answers} == {True, False}
    assert all((a.tokens == 6) == a.truncated for a in answers)
    assert done == [16, 30]
    assert not any("<|" in a.text or a.text != a.text.strip() for a in answers)


def test_batches_that_were_kept_are_not_done_again(chat: tuple[Any, Any], tmp_path: Path) -> None:
    kept, sampling, done = tmp_path / "kept" / "answers.jsonl", Sampling(8, batch_size=4), []
    whole = generate(*chat, CONVERSATIONS, sampling, seed=1)

    def stop(count: int) -> None:
        done.append(count)
        if count == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(*chat, CONVERSATIONS, sampling, seed=1, on_batch=stop, answers_file=kept)
    first = kept.read_text()
    with kept.open("a") as file:
        file.write('["cut by a ki')
    assert generate(*chat, CONVERSATIONS, sampling, seed=1, answers_file=kept) == whole
    assert kept.read_text().startswith(first) and kept.read_text().count("\n") == 3
    # What stands there is taken as it is; what was asked otherwise is asked anew.
    first_key, first_answers = json.loads(first.splitlines()[0])
    kept.write_text(json.dumps([first_key, [["kept as it is", 3, True], *first_answers[1:]]]) + "\n")
    assert [a.text for a in generate(*chat, CONVERSATIONS, sampling, seed=1, answers_file=kept)].count("kept as it is") == 1
    assert generate(*chat, CONVERSATIONS, sampling, seed=2, answers_file=kept) == generate(*chat, CONVERSATIONS, sampling, seed=2)


def test_a_long_prompt_makes_no_others_as_long(chat: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*["hi"] * 5, "rain " * 60, "rain and snow"]
    conversations = [[{"role": "user", "content": text}] for text in texts]
    lengths = [len(prompt) + 4 for prompt in prompt_tokens(chat[1], conversations)]
    monkeypatch.setattr(generation, "BATCH_TOKENS", 3 * max(lengths[0], lengths[-1]))
    sizes, done = [], 0

    def on_batch(answered: int) -> None:
        nonlocal done
        sizes.append(answered - done)
        done = answered

    answers = generate(*chat, conversations, Sampling(4, temperature=0.0), 0, on_batch)
    assert sizes == [3, 3, 1] and max(lengths) > 3 * lengths[-1]
    assert answers == [generate(*chat, [c], Sampling(4, temperature=0.0), 0)[0] for c in conversations]


def test_prompt_that_leaves_no_room_is_named(chat: tuple[Any, Any]) -> None:
    long = [{"role": "user", "content": "rain " * 200}]
    with pytest.raises(UserError, match=r"prompt 3 has \d+ tokens, but the model's context leaves room for 412"):
        generate(*chat, [*CONVERSATIONS[:2], long * 3], Sampling(100), seed=0)


def test_nothing_asked_nothing_answered(chat: tuple[Any, Any]) -> None:
    assert generate(*chat, [], Sampling(8), seed=0) == []
