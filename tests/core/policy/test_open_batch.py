"""Answers that join and leave a batch are those that the model gives alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from moslim_core.policy import open_batch as module
from moslim_core.policy.open_batch import Alone, Ask, OpenBatch, open_batch
from moslim_core.policy.shared_prefix import generate_completions
from moslim_core.sampling import generation_config
from tests.core.family_models import make_family

END, PAD = 2, 0
WORDS = torch.Generator().manual_seed(1)


def words(count: int) -> list[int]:
    return torch.randint(3, 300, (count,), generator=WORDS).tolist()


SHARED = words(12)
# Of several lengths, some with the same beginning, one longer than the sliding window of the family that has one (64).
PROMPTS = [SHARED + words(4), words(3), SHARED + words(9), words(90), SHARED + words(4), words(1), words(40)]


def alone(model: Any, ask: Ask) -> list[int]:
    """By the drawing that training and evaluation use, the prompt in a batch of its own."""
    torch.manual_seed(ask.seed)
    return generate_completions(model, [ask.prompt], generation_config([END], PAD, ask.temperature, max_new_tokens=ask.max_new_tokens))[0]


def drawn(batch: OpenBatch | Alone, arrivals: dict[int, dict[int, Ask]], leaving: dict[int, set[int]]) -> dict[int, list[int]]:
    """{key: tokens} where at each step the asks of `arrivals` join and the keys of `leaving` go."""
    answers: dict[int, list[int]] = {key: [] for asks in arrivals.values() for key in asks}
    step = 0
    while batch or step <= max(arrivals):
        batch.drop(leaving.get(step, set()))
        batch.join(arrivals.get(step, {}))
        for key, token, over in batch.draw():
            answers[key].append(token)
            assert over == (token == END or len(answers[key]) == arrivals_of(arrivals)[key].max_new_tokens)
        step += 1
    return answers


def arrivals_of(arrivals: dict[int, dict[int, Ask]]) -> dict[int, Ask]:
    return {key: ask for asks in arrivals.values() for key, ask in asks.items()}


@pytest.mark.parametrize("family", ["gemma3_text", "qwen3_next"])
def test_answers_that_join_and_leave_are_those_given_alone(
    family: str, tiny_chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its space is used up several times.
    monkeypatch.setattr(module, "ROOM", 3)
    model = AutoModelForCausalLM.from_pretrained(make_family(family, tiny_chat, tmp_path), dtype=torch.float32).eval()
    asks = [Ask(prompt, 5 + 4 * n, 0.0 if n % 2 else 0.9, seed=n) for n, prompt in enumerate(PROMPTS)]
    batch = open_batch(model, [END], PAD)
    assert isinstance(batch, Alone) == (family == "qwen3_next")
    arrivals = {0: dict(enumerate(asks[:2])), 2: {2: asks[2], 3: asks[3]}, 3: {4: asks[4]}, 9: {5: asks[5]}, 30: {6: asks[6]}}
    assert drawn(batch, arrivals, {}) == {key: alone(model, ask) for key, ask in enumerate(asks)}


@pytest.fixture(scope="module")
def llama(tiny_chat: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_chat, dtype=torch.float32).eval()


@settings(max_examples=8)
@given(data=st.data())
def test_any_order_of_coming_and_going(llama: Any, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 6))
    prompts, lengths, temperatures = st.sampled_from(PROMPTS), st.integers(1, 12), st.sampled_from([0.0, 0.5, 1.3])
    asks = {key: Ask(data.draw(prompts), data.draw(lengths), data.draw(temperatures), key) for key in range(count)}
    arrivals: dict[int, dict[int, Ask]] = {}
    for key, ask in asks.items():
        arrivals.setdefault(data.draw(st.integers(0, 8)), {})[key] = ask
    # None of the first half of the keys is waited for to the end.
    leaving = {data.draw(st.integers(9, 12)): set(range(count // 2))}
    answers = drawn(OpenBatch(llama, [END]), arrivals, leaving)
    for key, ask in asks.items():
        expected = alone(llama, ask)
        assert answers[key] == (expected[: len(answers[key])] if key < count // 2 else expected)
