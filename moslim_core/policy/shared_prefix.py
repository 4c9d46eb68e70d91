"""Generation and log-probabilities with everything that prompts have in common read once.

The prompts of a batch share their beginnings: all the system turn, those about one question the question, the answers of a group
the whole prompt. Each shared part goes through the model once; its keys and values are repeated for what follows. The numbers and
gradients are those of the plain pass, to rounding (a test holds it). (ours)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, LinearAttentionCacheLayerMixin

Tokens = tuple[int, ...]

# One more pass through all layers takes about as long as so many tokens more in a pass: few on a CPU, which is busy with tokens; on a
# GPU thousands, as starting a pass's kernels takes longer than their work.
PASS_TOKENS = {"cpu": 16}
GPU_PASS_TOKENS = 4096


class Layout(NamedTuple):
    """Prompts as `ids` and `mask` (n, p), each of their parts padded on its left; `ends` are the columns where parts end.

    `work`: tokens, padding included, that go through the model to read each part once.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    ends: list[int]
    work: int


def lay_out(prompts: Sequence[Sequence[int]], share: bool = True, pass_tokens: int = PASS_TOKENS["cpu"]) -> Layout:
    """Cut prompts (n lists of at least one token) where it saves most: after what all share, and after what neighbours share.

    A prompt's last part has at least one token. With `share` off there is no other. A part more costs as much as `pass_tokens`.
    """
    rows: list[Tokens] = [tuple(p) for p in prompts]
    distinct = sorted(set(rows))
    cuts = _cuts(distinct, pass_tokens) if share else dict.fromkeys(distinct, (0, 0))
    parts = {row: (row[:all_], row[all_:group], row[group:]) for row, (all_, group) in cuts.items()}
    widths = [max(len(part[i]) for part in parts.values()) for i in range(3)]
    padded: dict[Tokens, list[tuple[int, int]]] = {row: [] for row in distinct}
    for row, cut in parts.items():
        for part, width in zip(cut, widths, strict=True):
            padded[row] += [(0, 0)] * (width - len(part)) + [(token, 1) for token in part]
    table = torch.tensor([padded[row] for row in rows])
    work = sum(len({part[: i + 1] for part in parts.values()}) * widths[i] for i in range(3))
    return Layout(table[..., 0], table[..., 1], [sum(widths[: i + 1]) for i in range(3) if widths[i]], work)


def _cuts(distinct: list[Tokens], pass_tokens: int) -> dict[Tokens, tuple[int, int]]:
    """{prompt: (tokens that all share, tokens that its group shares)} of sorted prompts: what takes the least work.

    Sorted, a group is a run of neighbours, and what it shares is the least that two neighbours share.
    """
    common = [_common(a, b) for a, b in pairwise(distinct)]
    chosen, least = [(0, 0)] * len(distinct), pass_tokens + len(distinct) * max(map(len, distinct))
    for all_, threshold in itertools.product({0, min(common, default=0)}, set(common)):
        groups = [[0]]
        for index, shared in enumerate(common, start=1):
            if shared > threshold:
                groups[-1].append(index)
            else:
                groups.append([index])
        shares = [min(common[g[0] : g[-1]], default=all_) for g in groups]
        cuts = [(all_, share) for group, share in zip(groups, shares, strict=True) for _ in group]
        rest = max(len(row) - share for row, (_, share) in zip(distinct, cuts, strict=True))
        widths = (all_, max(shares) - all_, rest)
        work = sum(rows * width + pass_tokens * (width > 0) for rows, width in zip((1, len(groups), len(distinct)), widths, strict=True))
        if work < least:
            chosen, least = cuts, work
    return dict(zip(distinct, chosen, strict=True))


def _common(a: Tokens, b: Tokens) -> int:
    """Tokens at the start that both have, with at least one of each left over."""
    last = min(len(a), len(b)) - 1
    return next((i for i in range(last) if a[i] != b[i]), last)


def can_share(model: Any) -> bool:
    """Whether what the model keeps of a prompt is keys and values alone, which can be taken out for some rows and repeated.

    A recurrent state (linear attention, state-space layers) can't: such models read every prompt whole.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if getattr(inner, "_is_stateful", False):
        return False
    try:
        layers = DynamicCache(config=inner.config).layers
    except KeyError:  # a kind of layer that this cache does not have
        return False
    return all(isinstance(layer, DynamicLayer) and not isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)


def _layout(model: Any, prompts: Sequence[Sequence[int]], new_tokens: int) -> Layout:
    """The prompts' layout on the model's device. A sliding window counts columns, so padding between parts would move it."""
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    longest = max(map(len, prompts)) + new_tokens
    layout = lay_out(prompts, share=window is None or 2 * longest <= window, pass_tokens=_pass_tokens(model))
    return layout._replace(ids=layout.ids.to(model.device), mask=layout.mask.to(model.device))


def _pass_tokens(model: Any) -> int:
    return PASS_TOKENS.get(model.device.type, GPU_PASS_TOKENS)


def _read(model: Any, layout: Layout, states: bool = False) -> tuple[Any, torch.Tensor, torch.Tensor | None]:
    """(cache of keys and values for all n prompts, logits after each (n, 1, V), last hidden state there (n, 1, d) if asked for)."""
    ids, mask = layout.ids, layout.mask
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    begin, read = 0, None
    # As an index: a slice would make torch copy a frozen output layer once for every row.
    last = torch.tensor([-1], device=ids.device)
    owner = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
    for end in layout.ends:
        distinct, part_of = torch.unique(torch.cat([mask[:, :end], ids[:, :end]], dim=1), dim=0, return_inverse=True)
        row = torch.empty(len(distinct), dtype=torch.long, device=ids.device).scatter_(
            0, part_of, torch.arange(len(ids), device=ids.device)
        )
        cache = None
        if read is not None:
            cache = read.past_key_values
            cache.batch_select_indices(owner[row])
        read = model(
            input_ids=ids[row, begin:end],
            attention_mask=mask[row, :end],
            position_ids=positions[row, begin:end],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=last,
            output_hidden_states=states,
        )
        begin, owner = end, part_of
    assert read is not None, "a prompt has at least one token"
    read.past_key_values.batch_select_indices(owner)
    return read.past_key_values, read.logits[owner], read.hidden_states[-1][owner, -1:] if states else None


def unpadded(ids: torch.Tensor, mask: torch.Tensor) -> list[list[int]]:
    """Rows of token ids (n, p) without those where `mask` is 0."""
    return [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)]


def first_broken(log_probs: torch.Tensor, mask: torch.Tensor) -> int | None:
    """The first row of log-probabilities (n, c) that has one which is not finite where `mask` is not 0."""
    broken = ~torch.isfinite(log_probs.detach()).logical_or(mask == 0).all(dim=1)
    return int(broken.nonzero()[0]) if broken.any() else None


class Read(NamedTuple):
    """Of completions (n, c): log-probabilities and entropies (n, c) in nats, and the hidden states (n, c, d) that chose each token."""

    log_probs: torch.Tensor
    entropies: torch.Tensor | None
    states: torch.Tensor | None


def completion_log_probs(
    model: Any,
    prompts: Sequence[Sequence[int]],
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
    temperature: float = 1.0,
    compute_entropy: bool = True,
    states: bool = False,
    share: bool = True,
) -> Read:
    """What the model makes of completions (n, c) after n prompts.

    Positions where `completion_mask` is 0 hold no meaning. With `share` off the model is called once and keeps no cache, as a wrapped
    model (DDP, FSDP) must be, one that recomputes activations, and one whose state can't be shared (`can_share`).
    """
    layout = _layout(model, prompts, completion_ids.shape[1]) if share and can_share(model) else None
    if layout is None or len(prompts) * max(map(len, prompts)) - layout.work < _pass_tokens(model):
        logits, hidden = _read_at_once(model, prompts, completion_ids, completion_mask, states)
    else:
        logits, hidden = _read_after_prompts(model, layout, completion_ids, completion_mask, states)
    logits = logits.float() if temperature == 1 else logits.float() / temperature
    log_probs = torch.log_softmax(logits, dim=-1)
    chosen = log_probs.gather(2, completion_ids.unsqueeze(-1)).squeeze(-1)
    if not compute_entropy:
        return Read(chosen, None, hidden)
    with torch.no_grad():
        return Read(chosen, -(log_probs.exp() * log_probs).sum(dim=-1), hidden)


def _read_at_once(
    model: Any, prompts: Sequence[Sequence[int]], completion_ids: torch.Tensor, completion_mask: torch.Tensor, states: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(logits (n, c, V), states (n, c, d)) that chose each token, by one pass over prompts and completions."""
    prompt = lay_out(prompts, share=False)
    device = completion_ids.device
    ids = torch.cat([prompt.ids.to(device), completion_ids[:, :-1]], dim=1)
    mask = torch.cat([prompt.mask.to(device), completion_mask[:, :-1]], dim=1)
    # As an index: a slice would make torch copy a frozen output layer once for every row.
    kept = torch.arange(prompt.ids.shape[1] - 1, ids.shape[1], device=ids.device)
    read = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=kept,
        output_hidden_states=states,
    )
    return read.logits, read.hidden_states[-1][:, kept] if states else None


def _read_after_prompts(
    model: Any, layout: Layout, completion_ids: torch.Tensor, completion_mask: torch.Tensor, states: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The same by a pass over each part of the prompts, and one over the completions."""
    cache, logits, hidden = _read(model, layout, states)
    if completion_ids.shape[1] > 1:
        lengths = layout.mask.sum(dim=1, keepdim=True)
        steps = torch.arange(completion_ids.shape[1] - 1, device=completion_ids.device)
        answer = model(
            input_ids=completion_ids[:, :-1],
            attention_mask=torch.cat([layout.mask, completion_mask[:, :-1]], dim=1),
            position_ids=lengths + steps,
            past_key_values=cache,
            use_cache=True,
            output_hidden_states=states,
        )
        logits = torch.cat([logits, answer.logits], dim=1)
        hidden = torch.cat([hidden, answer.hidden_states[-1]], dim=1) if hidden is not None else None
    return logits, hidden


def generate_completions(model: Any, prompts: Sequence[Sequence[int]], config: Any) -> list[list[int]]:
    """New token ids after each prompt, up to and with its end token where it came; sampled as the generation config says.

    The model is in eval mode meanwhile. The prompts' last tokens are left to `generate`, which needs one to start from.
    """
    was_training = model.training
    model.eval()
    with torch.no_grad():
        completions = _generate(model, prompts, config)
    model.train(was_training)
    return completions


def _generate(model: Any, prompts: Sequence[Sequence[int]], config: Any) -> list[list[int]]:
    heads, last = [p[:-1] for p in prompts], torch.tensor([p[-1:] for p in prompts], device=model.device)
    if min(map(len, heads)) == 0 or not can_share(model):
        plain, cache = lay_out(prompts, share=False), None
        ids, mask = plain.ids.to(model.device), plain.mask.to(model.device)
    else:
        layout = _layout(model, heads, config.max_new_tokens)
        cache, _, _ = _read(model, layout)
        ids, mask = torch.cat([layout.ids, last], dim=1), torch.cat([layout.mask, torch.ones_like(last)], dim=1)
    # A model set up to recompute activations has its cache switched off, and would go on without the prompt.
    output = model.generate(input_ids=ids, attention_mask=mask, past_key_values=cache, generation_config=config, use_cache=True)
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    new = output[:, ids.shape[1] :].tolist()
    return [c[: next((i + 1 for i, token in enumerate(c) if token in ends), len(c))] for c in new]
