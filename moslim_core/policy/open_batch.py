"""A batch that answers join and leave while others go on, each with its own length, temperature and seed. (ours)

Those that join are read together, with what they share once (shared_prefix.py); their keys and values are padded on the left to the width
of the others, and from then on all go through the model together, token by token. A greedy answer is the one that the model gives alone,
to rounding; a drawn one takes its random numbers from a generator of its own, whoever is beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from moslim_core.policy.drawing_cache import with_room
from moslim_core.policy.shared_prefix import can_share, generate_completions, layout_for, read_prompts, sampled
from moslim_core.sampling import generation_config

# Tokens that a cache gets space for at once: one long answer must not take as much memory for all that are beside it.
ROOM = 128


class Ask(NamedTuple):
    """Token ids of a prompt, and how its answer is drawn; temperature 0 is greedy."""

    prompt: list[int]
    max_new_tokens: int
    temperature: float
    seed: int


class Drawn(NamedTuple):
    """The next token of the answer `key`; `over`: it is the last one, an end token or the last of its `max_new_tokens`."""

    key: int
    token: int
    over: bool


class _Row:
    def __init__(self, key: int, ask: Ask) -> None:
        self.key, self.ask, self.count = key, ask, 0
        self.random = torch.Generator().manual_seed(ask.seed)


def can_join(model: Any) -> bool:
    """Whether the keys and values of two batches of the model can be put together."""
    return can_share(model) and all(
        type(la) in (DynamicLayer, DynamicSlidingWindowLayer) for la in DynamicCache(config=model.config).layers
    )


class OpenBatch:
    """Answers of a model that `can_join`. Not for several threads at once."""

    def __init__(self, model: Any, ends: Collection[int]) -> None:
        self.model, self.ends = model, frozenset(ends)
        self.rows: list[_Row] = []
        # Of the rows: keys and values, which columns of them count (n, p), and what follows (n, V).
        self.cache: Any = None
        self.mask: Tensor
        self.logits: Tensor
        # Tokens that the cache has space for.
        self.room = 0

    def __len__(self) -> int:
        return len(self.rows)

    @torch.inference_mode()
    def join(self, asks: Mapping[int, Ask]) -> None:
        """Read the prompts of new answers, by keys that are not in the batch."""
        if not asks:
            return
        layout = layout_for(self.model, [ask.prompt for ask in asks.values()], max(ask.max_new_tokens for ask in asks.values()))
        read = read_prompts(self.model, layout)
        cache, owner = read.cache, read.owner
        mask, logits = layout.mask, read.logits[owner, -1]
        if self.rows:
            width = max(self.mask.shape[1], mask.shape[1])
            own = read.cache_of(torch.arange(len(asks), device=mask.device))
            cache = _joined(self.cache, self.mask.shape[1], own, mask.shape[1])
            mask = torch.cat([_padded(self.mask, width, -1), _padded(mask, width, -1)])
            logits = torch.cat([self.logits, logits])
            owner = torch.arange(len(mask), device=mask.device)
        self.mask, self.logits = mask, logits
        self.rows = [*self.rows, *(_Row(key, ask) for key, ask in asks.items())]
        self.cache = self._roomy(cache, owner)

    def drop(self, keys: Collection[int]) -> None:
        """Take out answers that nobody waits for; a key that is not in the batch is passed over."""
        self._keep([place for place, row in enumerate(self.rows) if row.key not in keys])

    def clear(self) -> None:
        """Take out all, whatever state a pass that failed has left."""
        self.rows, self.cache = [], None

    @torch.inference_mode()
    def draw(self) -> list[Drawn]:
        """One token more of every answer. Those that it ends leave the batch."""
        if not self.rows:
            return []
        tokens = self._next()
        drawn = []
        for row, token in zip(self.rows, tokens.tolist(), strict=True):
            row.count += 1
            drawn.append(Drawn(row.key, token, token in self.ends or row.count == row.ask.max_new_tokens))
        left = [place for place, one in enumerate(drawn) if not one.over]
        tokens = tokens[left]
        self._keep(left)
        if left:
            if not self.room:
                self.cache = self._roomy(self.cache, torch.arange(len(left), device=self.mask.device))
            self.room -= 1
            self.mask = F.pad(self.mask, (0, 1), value=1)
            read = self.model(
                input_ids=tokens.unsqueeze(1),
                attention_mask=self.mask,
                position_ids=self.mask.sum(dim=1, keepdim=True) - 1,
                past_key_values=self.cache,
                use_cache=True,
            )
            self.cache, self.logits = read.past_key_values, read.logits[:, -1]
        return drawn

    def _next(self) -> Tensor:
        """The next token of every row, (n,)."""
        greedy = self.logits.argmax(dim=-1)
        drawing = [row.ask.temperature > 0 for row in self.rows]
        if not any(drawing):
            return greedy
        device = self.logits.device
        numbers = torch.cat([torch.rand(1, 1, generator=row.random) for row in self.rows]).to(device)
        temperatures = torch.tensor([[row.ask.temperature or 1.0] for row in self.rows], device=device)
        return torch.where(torch.tensor(drawing, device=device), sampled(self.logits, temperatures, numbers), greedy)

    def _keep(self, places: list[int]) -> None:
        if len(places) == len(self.rows):
            return
        self.rows = [self.rows[place] for place in places]
        if not self.rows:
            self.cache = None
            return
        left = torch.tensor(places, device=self.mask.device)
        self.mask, self.logits = self.mask[left], self.logits[left]
        # Columns that only longer prompts had.
        unused = int(self.mask.any(dim=0).int().argmax())
        if unused:
            self.mask = self.mask[:, unused:]
            for layer in filter(_is_filled, self.cache.layers):
                _set(layer, self.mask.shape[1], layer.keys, layer.values)
        self.cache = self._roomy(self.cache, left)

    def _roomy(self, cache: Any, owner: Tensor) -> Any:
        """The rows `owner` (n,) of a cache, with room for what the answers may still get, or a part of it."""
        self.room = min(ROOM, max(row.ask.max_new_tokens - row.count for row in self.rows))
        return with_room(cache, owner, self.room)


class Alone:
    """The same for a model whose batches can't be put together, as one with a recurrent state: one answer after the other, each whole."""

    def __init__(self, model: Any, ends: Collection[int], pad: int) -> None:
        self.model, self.ends, self.pad = model, list(ends), pad
        self.asks: dict[int, Ask] = {}

    def __len__(self) -> int:
        return len(self.asks)

    def join(self, asks: Mapping[int, Ask]) -> None:
        self.asks |= asks

    def drop(self, keys: Collection[int]) -> None:
        self.asks = {key: ask for key, ask in self.asks.items() if key not in keys}

    def clear(self) -> None:
        self.asks = {}

    def draw(self) -> list[Drawn]:
        """All tokens of one answer."""
        if not self.asks:
            return []
        key = next(iter(self.asks))
        ask = self.asks.pop(key)
        config = generation_config(self.ends, self.pad, ask.temperature, max_new_tokens=ask.max_new_tokens)
        torch.manual_seed(ask.seed)
        tokens = generate_completions(self.model, [ask.prompt], config)[0]
        return [Drawn(key, token, place == len(tokens)) for place, token in enumerate(tokens, start=1)]


def open_batch(model: Any, ends: Collection[int], pad: int) -> OpenBatch | Alone:
    """What the model's answers are drawn in."""
    return OpenBatch(model, ends) if can_join(model) else Alone(model, ends, pad)


def _is_filled(layer: Any) -> bool:
    """Layers that use another layer's keys and values have none of their own."""
    return bool(layer.is_initialized)


def _joined(one: Any, one_width: int, other: Any, other_width: int) -> Any:
    """The cache `one` with the rows of `other` after its own; widths are in columns, of which a sliding window keeps the last ones."""
    width = max(one_width, other_width)
    for layer, new in zip(one.layers, other.layers, strict=True):
        if _is_filled(layer):
            most = max(layer.keys.shape[-2], new.keys.shape[-2])
            keys, values = (
                torch.cat([_padded(a, most, -2), _padded(b, most, -2)]) for a, b in ((layer.keys, new.keys), (layer.values, new.values))
            )
            _set(layer, width, keys, values)
    return one


def _set(layer: Any, width: int, keys: Tensor, values: Tensor) -> None:
    """Give a layer keys and values of the last columns of `width`."""
    most = width
    if isinstance(layer, DynamicSlidingWindowLayer):
        layer.cumulative_length = width
        most = min(width, layer.sliding_window - 1)
    layer.keys, layer.values = keys[..., -most:, :], values[..., -most:, :]


def _padded(tensor: Tensor, width: int, dim: int) -> Tensor:
    """`tensor` with zeros before it, so that `dim` has `width`."""
    missing = width - tensor.shape[dim]
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dim) if missing else tensor
