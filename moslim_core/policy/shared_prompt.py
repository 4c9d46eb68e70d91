"""Log-probabilities of a group's answers with their common prompt computed once.

RLOO and GRPO ask for the same prompt in every answer of a group; here each different prompt of a batch goes through the model
once, its keys and values are repeated for its answers, and the answers alone follow. The numbers and gradients are those of the
plain pass, to rounding (a test holds it). (ours)
"""

from __future__ import annotations

from typing import Any

import torch


def completion_log_probs(
    model: Any,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
    temperature: float = 1.0,
    compute_entropy: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(log-probabilities, entropies or None), each (n, c) in nats, of completions (n, c) after left-padded prompts (n, p).

    Positions where `completion_mask` is 0 hold no meaning. The model must keep a cache of keys and values.
    """
    distinct, owner = torch.unique(torch.cat([prompt_mask, prompt_ids], dim=1), dim=0, return_inverse=True)
    mask, ids = distinct[:, : prompt_mask.shape[1]], distinct[:, prompt_mask.shape[1] :]
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    prompt = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
    cache = prompt.past_key_values
    cache.batch_select_indices(owner)
    logits = prompt.logits[owner]
    if completion_ids.shape[1] > 1:
        lengths = prompt_mask.sum(dim=1, keepdim=True)
        steps = torch.arange(completion_ids.shape[1] - 1, device=completion_ids.device)
        answer = model(
            input_ids=completion_ids[:, :-1],
            attention_mask=torch.cat([prompt_mask, completion_mask[:, :-1]], dim=1),
            position_ids=lengths + steps,
            past_key_values=cache,
            use_cache=True,
        )
        logits = torch.cat([logits, answer.logits], dim=1)
    logits = logits.float() if temperature == 1 else logits.float() / temperature
    log_probs = torch.log_softmax(logits, dim=-1)
    chosen = log_probs.gather(2, completion_ids.unsqueeze(-1)).squeeze(-1)
    if not compute_entropy:
        return chosen, None
    with torch.no_grad():
        return chosen, -(log_probs.exp() * log_probs).sum(dim=-1)


def generate_completions(model: Any, prompt_ids: torch.Tensor, prompt_mask: torch.Tensor, config: Any) -> torch.Tensor:
    """New token ids (n, c) after left-padded prompts (n, p), each different prompt read once; padded after the end token.

    The prompt's last token is left to `generate`, which needs one to start from.
    """
    if prompt_ids.shape[1] < 2:
        return model.generate(input_ids=prompt_ids, attention_mask=prompt_mask, generation_config=config)[:, prompt_ids.shape[1] :]
    distinct, owner = torch.unique(torch.cat([prompt_mask, prompt_ids], dim=1), dim=0, return_inverse=True)
    mask, ids = distinct[:, : prompt_mask.shape[1]], distinct[:, prompt_mask.shape[1] :]
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    read = model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], position_ids=positions[:, :-1], use_cache=True, logits_to_keep=1)
    cache = read.past_key_values
    cache.batch_select_indices(owner)
    output = model.generate(input_ids=prompt_ids, attention_mask=prompt_mask, past_key_values=cache, generation_config=config)
    return output[:, prompt_ids.shape[1] :]
