"""Reading once what prompts share gives the numbers and the gradients of the plain pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from transformers import AutoModelForCausalLM, GenerationConfig, MistralConfig, MistralForCausalLM

from moslim_core.policy.log_probs import _groups, completion_log_probs
from moslim_core.policy.shared_prefix import generate_completions, lay_out, sampled

DRAW = torch.Generator().manual_seed(0)


def words(count: int) -> list[int]:
    return torch.randint(3, 300, (count,), generator=DRAW).tolist()


SYSTEM, QUESTIONS, REQUESTS = words(20), [words(9), words(14)], [words(n) for n in (5, 8, 6)]
# Three prompts with nothing in common; six that share the system turn, three by three a question.
APART = [words(n) for n in (3, 7, 5)]
NESTED = [SYSTEM + question + request for question in QUESTIONS for request in REQUESTS]
BATCHES = {
    "groups": [APART[i] for i in (0, 0, 0, 1, 1, 1, 2, 2, 2)],
    "mixed": [APART[i] for i in (2, 0, 1, 0, 2, 2)],
    "one prompt": [APART[1]] * 2,
    "nested": [prompt for prompt in NESTED for _ in range(2)],
    "nested, mixed": [NESTED[i] for i in (4, 0, 5, 2, 1, 4, 3)],
    "one goes on where the other ends": [SYSTEM, SYSTEM + QUESTIONS[0], SYSTEM],
    "one token": [[5], [6], [5]],
}


def answers_to(prompts: list[list[int]], completion: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random answers, each cut at another place."""
    answers = torch.tensor([words(completion) for _ in prompts])
    kept = torch.tensor([1 + (3 * row + 1) % completion for row in range(len(prompts))])
    mask = (torch.arange(completion) < kept.unsqueeze(1)).long()
    return answers * mask, mask


def plain(model: Any, prompts: list[list[int]], answers: torch.Tensor, answer_mask: torch.Tensor, t: float) -> tuple[torch.Tensor, float]:
    """One pass over prompt and answer, row by row without padding: log-probabilities and the tokens' mean entropy."""
    log_probs, entropies = torch.zeros(answers.shape), torch.zeros(answers.shape)
    for row, tokens in enumerate(prompts):
        prompt, answer = torch.tensor(tokens), answers[row][answer_mask[row] == 1]
        logits = model(input_ids=torch.cat([prompt, answer]).unsqueeze(0)).logits[0, len(prompt) - 1 : -1]
        every = torch.log_softmax(logits / t, dim=-1)
        log_probs[row, : len(answer)] = every.gather(1, answer.unsqueeze(1)).squeeze(1)
        entropies[row, : len(answer)] = -(every.exp() * every).sum(dim=1)
    return log_probs, float(entropies.detach().sum() / answer_mask.sum())


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize(("name", "completion"), [*((name, 6) for name in BATCHES), ("mixed", 1)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_numbers_and_gradients_are_those_of_the_plain_pass(tiny_chat: Path, name: str, completion: int, temperature: float) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_chat, dtype=torch.float32)
    prompts = BATCHES[name]
    answers, answer_mask = answers_to(prompts, completion)
    found, states, entropy = completion_log_probs(model, prompts, answers, answer_mask, temperature, states=True)
    assert states is not None
    expected, expected_entropy = plain(model, prompts, answers, answer_mask, temperature)
    assert found.shape == answers.shape
    assert not (found * (1 - answer_mask)).any()
    assert expected.std() > 0.1  # a flat model would agree by accident
    torch.testing.assert_close(found * answer_mask, expected, atol=1e-4, rtol=1e-4)
    # So few tokens are all looked at.
    assert entropy == pytest.approx(expected_entropy, rel=1e-3)
    # The states are those that the output layer reads.
    logits = model.get_output_embeddings()(states)
    again = (logits / temperature).log_softmax(-1).gather(2, answers.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(again * answer_mask, found * answer_mask, atol=1e-5, rtol=1e-5)
    weights = torch.linspace(-1, 1, answers.numel()).reshape(answers.shape) * answer_mask
    first = gradients(model, (found * weights).sum())
    second = gradients(model, (plain(model, prompts, answers, answer_mask, temperature)[0] * weights).sum())
    for name, grad in first.items():
        torch.testing.assert_close(grad, second[name], atol=1e-4, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("name", list(BATCHES))
def test_greedy_completions_are_those_of_plain_generation(tiny_chat: Path, name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_chat, dtype=torch.float32).eval()
    prompts = BATCHES[name]
    with torch.no_grad():
        firsts = {model(input_ids=torch.tensor([p])).logits[0, -1].argmax().item() for p in prompts}
        config = GenerationConfig(do_sample=False, max_new_tokens=8, pad_token_id=0, eos_token_id=[2, max(firsts)])
        found = generate_completions(model, prompts, config)
        for prompt, answer in zip(prompts, found, strict=True):
            alone = torch.tensor([prompt])
            expected = model.generate(input_ids=alone, attention_mask=torch.ones_like(alone), generation_config=config)
            assert answer == expected[0, len(prompt) :].tolist()


def test_what_is_shared_is_read_once() -> None:
    layout = lay_out([prompt for prompt in NESTED for _ in range(4)], pass_tokens=16)
    assert layout.ends == [20, 34, 42]
    distinct = [len(torch.unique(layout.ids[:, :end], dim=0)) for end in layout.ends]
    assert distinct == [1, 2, 6]
    assert lay_out(NESTED, share=False).ends == [42]
    assert lay_out(NESTED, pass_tokens=40).ends == [34, 42], "where products are faster, what all share is read with what groups share"
    assert lay_out(NESTED, pass_tokens=4096).ends == [42], "on a GPU a pass more costs more than these tokens"
    assert lay_out(APART, pass_tokens=16).ends == [7], "a shared token or two is not worth a pass of its own"


@given(st.lists(st.lists(st.integers(3, 5), min_size=1, max_size=40), min_size=1, max_size=12), st.lists(st.integers(3, 5), max_size=30))
def test_any_prompts_can_be_read_back(tails: list[list[int]], head: list[int]) -> None:
    prompts = [head + tail for tail in tails]
    layout = lay_out(prompts)
    assert [ids[mask == 1].tolist() for ids, mask in zip(layout.ids, layout.mask, strict=True)] == prompts
    assert layout.ends[-1] == layout.ids.shape[1] and layout.mask[:, -1].all()
    assert sorted(set(layout.ends)) == layout.ends


def test_sliding_window_is_not_moved_by_padding(tmp_path: Path) -> None:
    """Prompts longer than the window: parts padded between would count as tokens of it."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        sliding_window=24, initializer_range=0.2,
    )  # fmt: skip
    model = MistralForCausalLM(config)
    answers, answer_mask = answers_to(NESTED, 6)
    found = completion_log_probs(model, NESTED, answers, answer_mask).log_probs
    expected, _ = plain(model, NESTED, answers, answer_mask, 1.0)
    assert expected.std() > 0.1
    torch.testing.assert_close(found * answer_mask, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("share", [True, False])
def test_answers_of_very_different_lengths_are_cut_into_passes_and_come_back_in_order(tiny_chat: Path, share: bool) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_chat, dtype=torch.float32)
    lengths = [60, 2, 3, 58, 1, 2, 59, 2]
    prompts = [NESTED[row % 3] for row in range(len(lengths))]
    answers = torch.tensor([words(length) + [0] * (60 - length) for length in lengths])
    mask = (torch.arange(60) < torch.tensor(lengths).unsqueeze(1)).long()
    assert _groups(model, lengths) == [[4, 1, 5, 7, 2], [3, 6, 0]]
    found, states, entropy = completion_log_probs(model, prompts, answers, mask, states=True, share=share)
    assert states is not None and states.shape == (8, 60, 32)
    expected, mean = plain(model, prompts, answers, mask, 1.0)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    again = model.get_output_embeddings()(states).log_softmax(-1).gather(2, answers.unsqueeze(-1)).squeeze(-1) * mask
    torch.testing.assert_close(again, found, atol=1e-4, rtol=1e-4)
    assert entropy == pytest.approx(mean, rel=0.05), "a sample of the tokens is looked at"


@pytest.mark.parametrize("vocabulary", [3, 256, 700])
def test_tokens_are_drawn_as_often_as_they_are_probable(vocabulary: int) -> None:
    torch.manual_seed(1)
    logits = 3 * torch.randn(vocabulary)
    logits[::3] = -torch.inf
    counts = torch.zeros(vocabulary)
    for _ in range(20):
        counts += torch.bincount(sampled(logits.expand(2000, -1), 0.8, torch.rand(2000, 1)), minlength=vocabulary)
    expected = (logits / 0.8).softmax(dim=0)
    assert counts[expected == 0].sum() == 0
    # 40,000 draws: the total variation of so many is about half the square root of (tokens / draws).
    assert (counts / counts.sum() - expected).abs().sum() / 2 < 0.5 * (vocabulary / 40_000) ** 0.5
