"""Computing each prompt once gives the numbers and the gradients of the plain pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from moslim_core.policy.shared_prompt import completion_log_probs, generate_completions


def batch(owners: list[int], completion: int) -> tuple[torch.Tensor, ...]:
    """Left-padded prompts of 3, 7 and 5 tokens, each row's answer cut at another place."""
    draw = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, 300, (n,), generator=draw) for n in (3, 7, 5)]
    ids, mask = torch.zeros(len(owners), 7, dtype=torch.long), torch.zeros(len(owners), 7, dtype=torch.long)
    for row, owner in enumerate(owners):
        prompt = prompts[owner]
        ids[row, 7 - len(prompt) :], mask[row, 7 - len(prompt) :] = prompt, 1
    answers = torch.randint(3, 300, (len(owners), completion), generator=draw)
    kept = torch.tensor([1 + (3 * row + 1) % completion for row in range(len(owners))])
    answer_mask = (torch.arange(completion) < kept.unsqueeze(1)).long()
    return ids, mask, answers * answer_mask, answer_mask


def plain(model: Any, ids: torch.Tensor, mask: torch.Tensor, answers: torch.Tensor, answer_mask: torch.Tensor, t: float) -> Any:
    """One pass over prompt and answer, row by row without padding before the prompt."""
    log_probs, entropies = torch.zeros(answers.shape), torch.zeros(answers.shape)
    for row in range(len(ids)):
        prompt, answer = ids[row][mask[row] == 1], answers[row][answer_mask[row] == 1]
        logits = model(input_ids=torch.cat([prompt, answer]).unsqueeze(0)).logits[0, len(prompt) - 1 : -1]
        every = torch.log_softmax(logits / t, dim=-1)
        log_probs[row, : len(answer)] = every.gather(1, answer.unsqueeze(1)).squeeze(1)
        entropies[row, : len(answer)] = -(every.exp() * every).sum(dim=1)
    return log_probs, entropies


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("owners", "completion"),
    [([0, 0, 0, 1, 1, 1, 2, 2, 2], 6), ([2, 0, 1, 0, 2, 2], 6), ([1, 1], 6), ([0, 1, 0], 1)],
    ids=["groups", "mixed", "one prompt", "one token"],
)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_numbers_and_gradients_are_those_of_the_plain_pass(tiny_chat: Path, owners: list[int], completion: int, temperature: float) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_chat, dtype=torch.float32)
    ids, mask, answers, answer_mask = batch(owners, completion)
    found, entropy = completion_log_probs(model, ids, mask, answers, answer_mask, temperature)
    expected, expected_entropy = plain(model, ids, mask, answers, answer_mask, temperature)
    assert found.shape == entropy.shape == answers.shape
    assert expected.std() > 0.1  # a flat model would agree by accident
    torch.testing.assert_close(found * answer_mask, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(entropy * answer_mask, expected_entropy, atol=1e-4, rtol=1e-4)
    weights = torch.linspace(-1, 1, answers.numel()).reshape(answers.shape) * answer_mask
    first = gradients(model, (found * weights).sum())
    second = gradients(model, (plain(model, ids, mask, answers, answer_mask, temperature)[0] * weights).sum())
    for name, grad in first.items():
        torch.testing.assert_close(grad, second[name], atol=1e-4, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("owners", [[0, 0, 1, 1], [2, 0, 1, 0]], ids=["groups", "mixed"])
def test_greedy_completions_are_those_of_plain_generation(tiny_chat: Path, owners: list[int]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_chat, dtype=torch.float32).eval()
    ids, mask, _, _ = batch(owners, 1)
    config = GenerationConfig(do_sample=False, max_new_tokens=8, pad_token_id=0, eos_token_id=2)
    with torch.no_grad():
        found = generate_completions(model, ids, mask, config)
        for row in range(len(owners)):
            alone = ids[row : row + 1, mask[row] == 1]
            expected = model.generate(input_ids=alone, attention_mask=torch.ones_like(alone), generation_config=config)
            answer = expected[0, alone.shape[1] :]
            assert found[row, : len(answer)].tolist() == answer.tolist()
