"""Prompts with everything that they have in common read once, for drawing answers and for reading them.

The prompts of a batch share their beginnings: all the system turn, those about one question the question, the answers of a group
the whole prompt. Each shared part goes through the model once; its keys and values are repeated for what follows. The numbers and
gradients are those of the plain pass, to rounding (a test holds it). (ours)
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from transformers.cache_utils import DynamicCache, DynamicLayer, LinearAttentionCacheLayerMixin

from moslim_core.policy.drawing_cache import with_room

Tokens = tuple[int, ...]

# One more pass through all layers takes about as long as so many tokens more in a pass (SmolLM2-135M): on a CPU the weights have to come
# from memory again, and the faster its products are, the more tokens that is; on a GPU thousands, as starting a pass's kernels takes
# longer than their work.
PASS_TOKENS = {torch.float32: 40, torch.bfloat16: 128}
GPU_PASS_TOKENS = 4096
# Answers that have ended are taken out of the batch when so large a share of it, or less, goes on.
STILL_GOING = 0.875
# Tokens of the vocabulary that are weighed together first when one is drawn.
BLOCK = 256


class Layout(NamedTuple):
    """Prompts as `ids` and `mask` (n, p), each of their parts padded on its left; `ends` are the columns where parts end.

    `work`: tokens, padding included, that go through the model to read each part once.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    ends: list[int]
    work: int


def lay_out(prompts: Sequence[Sequence[int]], share: bool = True, pass_tokens: int = PASS_TOKENS[torch.float32]) -> Layout:
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


def layout_for(model: Any, prompts: Sequence[Sequence[int]], new_tokens: int, share: bool = True) -> Layout:
    """The prompts' layout on the model's device. A sliding window counts columns, so padding between parts would move it."""
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    longest = max(map(len, prompts)) + new_tokens
    layout = lay_out(prompts, share=share and (window is None or 2 * longest <= window), pass_tokens=pass_tokens(model))
    return layout._replace(ids=layout.ids.to(model.device), mask=layout.mask.to(model.device))


def pass_tokens(model: Any) -> int:
    """What a pass more costs on the model's device, in tokens."""
    return PASS_TOKENS.get(model.dtype, PASS_TOKENS[torch.float32]) if model.device.type == "cpu" else GPU_PASS_TOKENS


class ReadPrompts(NamedTuple):
    """A cache of the keys and values of d distinct prompts, `owner` (n,) of the n prompts' rows in it, and what follows each distinct one:
    logits (d, 1, V), and the last hidden state (d, 1, h) with `states`."""

    cache: Any
    owner: torch.Tensor
    logits: torch.Tensor
    states: torch.Tensor | None

    def cache_of(self, rows: torch.Tensor) -> Any:
        """A cache of its own with the keys and values of the prompts `rows`."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        cache.batch_select_indices(self.owner[rows])
        return cache


def read_prompts(model: Any, layout: Layout, states: bool = False) -> ReadPrompts:
    """Read each part of the prompts once; what they share is repeated for what follows."""
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
    return ReadPrompts(read.past_key_values, owner, read.logits, read.hidden_states[-1][:, -1:] if states else None)


def generate_completions(model: Any, prompts: Sequence[Sequence[int]], config: Any, together: bool = False) -> list[list[int]]:
    """New token ids after each prompt, up to and with its end token where it came; sampled as the generation config says.

    The model is in eval mode meanwhile. `together`: other processes draw at the same time from the same sharded weights, so that all make
    the same passes.
    """
    was_training = model.training
    model.eval()
    with torch.no_grad():
        plainly = together or not can_share(model)
        completions = _generate(model, prompts, config, together) if plainly else _draw(model, prompts, config)
    model.train(was_training)
    return completions


def _generate(model: Any, prompts: Sequence[Sequence[int]], config: Any, together: bool) -> list[list[int]]:
    """By the library, each prompt whole."""
    plain = lay_out(prompts, share=False)
    ids, mask = plain.ids.to(model.device), plain.mask.to(model.device)
    output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, synced_gpus=together)
    return cut_at_ends(output[:, ids.shape[1] :].tolist(), config.eos_token_id)


def _draw(model: Any, prompts: Sequence[Sequence[int]], config: Any) -> list[list[int]]:
    """Token by token after what prompts share; what has ended is taken out of the batch. Neutral sampling (sampling.py) is all there is."""
    layout = layout_for(model, prompts, config.max_new_tokens)
    read = read_prompts(model, layout)
    ends = torch.tensor(config.eos_token_id, device=model.device).flatten()
    answers: list[list[int]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts), device=model.device)
    cache, mask, logits = with_room(read.cache, read.owner, config.max_new_tokens), layout.mask, read.logits[read.owner, -1]
    going = torch.ones(len(rows), dtype=torch.bool, device=model.device)
    for place in range(config.max_new_tokens):
        numbers = torch.rand(len(logits), 1, device=logits.device) if config.do_sample else None
        token = logits.argmax(dim=-1) if numbers is None else sampled(logits, config.temperature, numbers)
        for row, new, goes in zip(rows.tolist(), token.tolist(), going.tolist(), strict=True):
            if goes:
                answers[row].append(new)
        going = going & ~torch.isin(token, ends)
        if place + 1 == config.max_new_tokens or not going.any():
            break
        mask = torch.cat([mask, going.unsqueeze(1).to(mask)], dim=1)
        if int(going.sum()) <= STILL_GOING * len(going):
            left = going.nonzero().flatten()
            rows, token, mask, going = rows[left], token[left], mask[left], going[left]
            cache.batch_select_indices(left)
        read_on = model(
            input_ids=token.unsqueeze(1),
            attention_mask=mask,
            position_ids=(mask.sum(dim=1, keepdim=True) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        )
        cache, logits = read_on.past_key_values, read_on.logits[:, -1]
    return answers


def sampled(logits: torch.Tensor, temperature: float | torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """One token a row (n, V) by the inverse of its cumulative distribution: a random number a row, where others take one for each token.

    `temperature`: of all rows, or (n, 1); `numbers`: (n, 1) in [0, 1). A number says a block of the vocabulary first, then a token of it,
    so that sums run over few weights.
    """
    n, size = logits.shape
    weights = F.pad(logits.float(), (0, -size % BLOCK), value=-torch.inf)
    weights = weights.sub_(weights.amax(dim=-1, keepdim=True)).div_(temperature).exp_().unflatten(-1, (-1, BLOCK))
    blocks = weights.sum(dim=-1)
    up_to = blocks.cumsum(dim=-1)
    drawn = numbers * up_to[:, -1:]
    block = _first_above(up_to, drawn)
    before = (up_to - blocks).gather(1, block)
    within = weights[torch.arange(n, device=logits.device), block[:, 0]].cumsum(dim=-1)
    return (block * BLOCK + _first_above(within, drawn - before)).squeeze(1)


def _first_above(up_to: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """The first place (n, 1) of each cumulative row (n, m) that is above `drawn` (n, 1), however that was rounded: its weight is not 0."""
    below_all = torch.nextafter(up_to[:, -1:], torch.zeros_like(drawn))
    return torch.searchsorted(up_to, torch.minimum(drawn, below_all), right=True)


def cut_at_ends(completions: Sequence[list[int]], ends: int | Sequence[int]) -> list[list[int]]:
    """Each completion up to and with its first end token."""
    stops = {ends} if isinstance(ends, int) else set(ends)
    return [c[: next((i + 1 for i, token in enumerate(c) if token in stops), len(c))] for c in completions]
