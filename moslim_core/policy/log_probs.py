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
from moslim_core.policy.shared_prefix import Layout, ReadPrompts, can_share, layout_for, pass_tokens, read_prompts

# The entropy is a figure for people: of a pass's distributions so many are looked at.
ENTROPY_SAMPLE = 64


class Read(NamedTuple):
    """Of completions (n, c): log-probabilities (n, c) in nats, 0 where there is no token; the hidden states (n, c, h) that chose each
    token, with `states`; and the mean entropy in nats, over a sample of the tokens."""

    log_probs: Tensor
    states: Tensor | None
    entropy: float


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
    shares, states_read = share and can_share(model), states or output is not None
    layout, read = layout_for(model, prompts, ids.shape[1], shares), None
    if shares and len(prompts) * max(map(len, prompts)) - layout.work >= pass_tokens(model):
        read = read_prompts(model, layout, states_read)
    else:
        # Nothing or little would be saved: every row reads its own prompt.
        layout = layout_for(model, prompts, ids.shape[1], share=False) if shares else layout
        lengths = [n + len(p) for n, p in zip(lengths, prompts, strict=True)]
    log_probs, entropy = torch.zeros(ids.shape, device=ids.device), 0.0
    hidden: Tensor | None = None
    for rows in _groups(model, lengths) if share else [list(range(len(ids)))]:
        index = torch.tensor(rows, device=ids.device)
        width = int(mask[index].sum(dim=1).max())
        chosen, chosen_mask = ids[index, :width], mask[index, :width]
        logits, after = _pass(model, layout, read, index, chosen, chosen_mask, states_read, output is not None)
        is_token = chosen_mask.bool()
        places = is_token.nonzero()
        sample = places[:: -(-len(places) // ENTROPY_SAMPLE) or 1].unbind(dim=1)
        if output is None:
            logits = logits.float() / temperature
            found, some = -F.cross_entropy(logits[is_token], chosen[is_token], reduction="none"), logits[sample].detach()
        else:
            found = chosen_log_probs(after[is_token], output, chosen[is_token], temperature)
            with torch.no_grad():
                some = output(after[sample]).float() / temperature
        log_probs[index[places[:, 0]], places[:, 1]] = found
        if states:
            hidden = after.new_zeros(*ids.shape, after.shape[-1]) if hidden is None else hidden
            hidden[index, :width] = after
        spread = some.log_softmax(dim=-1)
        entropy += float(-(spread.exp() * spread).sum(dim=-1).mean()) * len(places) / int(mask.sum())
    return Read(log_probs, hidden, entropy)


def _groups(model: Any, lengths: Sequence[int]) -> list[list[int]]:
    """Rows of like length: cut where that saves more padding than a pass more costs."""
    return _cut(sorted(range(len(lengths)), key=lambda row: (lengths[row], row)), lengths, pass_tokens(model))


def _cut(rows: list[int], lengths: Sequence[int], cost: int) -> list[list[int]]:
    longest = lengths[rows[-1]]
    saved, place = max(((longest - lengths[rows[n - 1]]) * n, n) for n in range(1, len(rows) + 1))
    if saved <= cost:
        return [rows]
    return _cut(rows[:place], lengths, cost) + _cut(rows[place:], lengths, cost)


def _pass(
    model: Any, layout: Layout, read: ReadPrompts | None, index: Tensor, ids: Tensor, mask: Tensor, states: bool, no_logits: bool
) -> tuple[Tensor, Any]:
    """Logits and, with `states`, hidden states (n, c, ...) that choose completions (n, c); over prompts too where these were not read."""
    before = layout.mask[index]
    if read is None:
        used = before.any(dim=0)
        ids, before = torch.cat([layout.ids[index][:, used], ids], dim=1), before[:, used]
    # A completion's last token chooses nothing.
    ids, whole = ids[:, :-1], torch.cat([before, mask], dim=1)[:, :-1]
    # As an index: a slice would make torch copy a frozen output layer once for every row.
    last = torch.arange(before.shape[1] - 1 if read is None else 0, ids.shape[1], device=ids.device)
    first_logits, first_states = _first(read, index)
    if read is not None and not len(last):
        return first_logits, first_states
    found = model(
        input_ids=ids,
        attention_mask=whole,
        position_ids=(whole.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :],
        past_key_values=None if read is None else read.cache_of(index),
        use_cache=read is not None,
        logits_to_keep=last[:0] if no_logits else last,
        output_hidden_states=states,
    )
    hidden: Any = found.hidden_states[-1][:, last] if states else None
    if read is None:
        return found.logits, hidden
    return torch.cat([first_logits, found.logits], dim=1), torch.cat([first_states, hidden], dim=1) if states else None


def _first(read: ReadPrompts | None, index: Tensor) -> tuple[Any, Any]:
    """Logits and hidden states (n, 1, ...) after prompts that were read, which choose first tokens; None where there are none."""
    if read is None:
        return None, None
    owner = read.owner[index]
    return read.logits[owner], None if read.states is None else read.states[owner]
