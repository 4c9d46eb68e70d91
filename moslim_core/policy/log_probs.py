"""How probable answers are after their prompts: one pass over each shared part of the prompts, and one over answers of like length. (ours)

The numbers and gradients are those of the plain pass over prompts and answers, to rounding (a test holds it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moslim_core.policy.output_layer import chosen_log_probs
from moslim_core.policy.shared_prefix import ReadPrompts, can_share, lay_out, layout_for, pass_tokens, read_prompts

# The entropy is a figure for people: of a pass's distributions so many are looked at.
ENTROPY_SAMPLE = 64


class Read(NamedTuple):
    """Of completions (n, c): log-probabilities (n, c) in nats, 0 where there is no token; the hidden states (n, c, h) that chose each
    token, with `states`; and the mean entropy in nats, over a sample of the tokens."""

    log_probs: Tensor
    states: Tensor | None
    entropy: float


class _Pass(NamedTuple):
    rows: Tensor
    log_probs: Tensor
    states: Tensor | None
    # (tokens that were looked at, their entropies' sum, tokens).
    entropy: tuple[int, float, int]


def completion_log_probs(
    model: Any,
    prompts: Sequence[Sequence[int]],
    ids: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    states: bool = False,
    share: bool = True,
    output: nn.Linear | None = None,
) -> Read:
    """What the model makes of completions `ids` (n, c), right-padded as `mask` says, after n prompts.

    `output`: the model's output layer where that is all there is to its logits (`plain_output_layer`), which are then never there at once.
    With `share` off the model is called once and keeps no cache, as sharded weights need it, a model that recomputes activations, and one
    whose state can't be shared (`can_share`).
    """
    lengths = mask.sum(dim=1).tolist()
    layout = layout_for(model, prompts, ids.shape[1]) if share and can_share(model) else None
    passes = []
    if layout is None or len(prompts) * max(map(len, prompts)) - layout.work < pass_tokens(model):
        prompt = lay_out(prompts, share=False)
        for rows in _groups(model, [n + len(p) for n, p in zip(lengths, prompts, strict=True)]) if share else [list(range(len(ids)))]:
            logits, after = _read_whole(model, prompt.ids, prompt.mask, ids, mask, rows, states, output)
            passes.append(_scored(logits, after, ids, mask, rows, temperature, output, states))
    else:
        read = read_prompts(model, layout, states or output is not None)
        for rows in _groups(model, lengths):
            logits, after = _read_after(model, read, layout.mask, ids, mask, rows, states, output)
            passes.append(_scored(logits, after, ids, mask, rows, temperature, output, states))
    order = torch.cat([part.rows for part in passes]).argsort()
    width = ids.shape[1]
    log_probs = torch.cat([F.pad(part.log_probs, (0, width - part.log_probs.shape[1])) for part in passes])[order]
    hidden = None
    if states:
        hidden = torch.cat([F.pad(part.states, (0, 0, 0, width - part.states.shape[1])) for part in passes if part.states is not None])[
            order
        ]
    seen, summed, tokens = zip(*(part.entropy for part in passes), strict=True)
    mean = sum(s / max(1, n) * t for n, s, t in zip(seen, summed, tokens, strict=True)) / max(1, sum(tokens))
    return Read(log_probs, hidden, mean)


def first_broken(log_probs: Tensor, mask: Tensor) -> int | None:
    """The first row of log-probabilities (n, c) that has one which is not finite where `mask` is not 0."""
    broken = ~torch.isfinite(log_probs.detach()).logical_or(mask == 0).all(dim=1)
    return int(broken.nonzero()[0]) if broken.any() else None


def _groups(model: Any, lengths: Sequence[int]) -> list[list[int]]:
    """Rows of like length: cut where that saves more padding than a pass more costs."""
    return _cut(sorted(range(len(lengths)), key=lambda row: (lengths[row], row)), lengths, pass_tokens(model))


def _cut(rows: list[int], lengths: Sequence[int], cost: int) -> list[list[int]]:
    longest = lengths[rows[-1]]
    saved, place = max(((longest - lengths[rows[n - 1]]) * n, n) for n in range(1, len(rows) + 1))
    # A pass that is short takes longer for each of its tokens.
    if saved <= cost * 4:
        return [rows]
    return _cut(rows[:place], lengths, cost) + _cut(rows[place:], lengths, cost)


def _read_whole(
    model: Any, prompt_ids: Tensor, prompt_mask: Tensor, ids: Tensor, mask: Tensor, rows: list[int], states: bool, output: nn.Linear | None
) -> tuple[Tensor, Tensor | None]:
    """One pass over prompts and completions: logits, or none of them with an `output` layer; hidden states with that, or with `states`."""
    index = torch.tensor(rows, device=ids.device)
    width = int(mask[index].sum(dim=1).max())
    before, before_mask = prompt_ids[rows].to(ids.device), prompt_mask[rows].to(ids.device)
    skipped = int((before_mask.sum(dim=0) == 0).sum())
    before, before_mask = before[:, skipped:], before_mask[:, skipped:]
    whole = torch.cat([before, ids[index, : width - 1]], dim=1)
    whole_mask = torch.cat([before_mask, mask[index, : width - 1]], dim=1)
    # As an index: a slice would make torch copy a frozen output layer once for every row.
    last = torch.arange(before.shape[1] - 1, whole.shape[1], device=ids.device)
    read = model(
        input_ids=whole,
        attention_mask=whole_mask,
        position_ids=(whole_mask.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=last if output is None else last[:0],
        output_hidden_states=states or output is not None,
    )
    return read.logits, read.hidden_states[-1][:, last] if read.hidden_states is not None else None


def _read_after(
    model: Any, read: ReadPrompts, prompt_mask: Tensor, ids: Tensor, mask: Tensor, rows: list[int], states: bool, output: nn.Linear | None
) -> tuple[Tensor, Tensor | None]:
    """A pass over completions whose prompts were read; the same."""
    index = torch.tensor(rows, device=ids.device)
    width = int(mask[index].sum(dim=1).max())
    logits = read.logits[read.owner[index]]
    hidden = read.states[read.owner[index]] if read.states is not None else None
    if width > 1:
        before_mask = prompt_mask[index]
        answer = model(
            input_ids=ids[index, : width - 1],
            attention_mask=torch.cat([before_mask, mask[index, : width - 1]], dim=1),
            position_ids=before_mask.sum(dim=1, keepdim=True) + torch.arange(width - 1, device=ids.device),
            past_key_values=read.cache_of(index),
            use_cache=True,
            logits_to_keep=0 if output is None else index[:0],
            output_hidden_states=hidden is not None,
        )
        logits = torch.cat([logits, answer.logits], dim=1)
        hidden = torch.cat([hidden, answer.hidden_states[-1]], dim=1) if hidden is not None else None
    return logits, hidden


def _scored(
    logits: Tensor,
    hidden: Tensor | None,
    ids: Tensor,
    mask: Tensor,
    rows: list[int],
    temperature: float,
    output: nn.Linear | None,
    states: bool,
) -> _Pass:
    index = torch.tensor(rows, device=ids.device)
    width = int(mask[index].sum(dim=1).max())
    chosen, is_token = ids[index, :width], mask[index, :width].bool()
    places = is_token.nonzero()
    sample = places[:: -(-len(places) // ENTROPY_SAMPLE) or 1].unbind(dim=1)
    if output is None:
        logits = logits.float() / temperature
        log_probs = -F.cross_entropy(logits.flatten(0, 1), chosen.flatten(), reduction="none").view_as(chosen).masked_fill(~is_token, 0.0)
        some = logits[sample].detach()
    else:
        assert hidden is not None
        log_probs = torch.zeros(chosen.shape, device=ids.device).masked_scatter(
            is_token, chosen_log_probs(hidden[is_token], output, chosen[is_token], temperature)
        )
        with torch.no_grad():
            some = output(hidden[sample]).float() / temperature
    spread = some.log_softmax(dim=-1)
    return _Pass(index, log_probs, hidden if states else None, (len(some), float(-(spread.exp() * spread).sum()), len(places)))
