"""A trained policy in three lines of Python: load it, ask it, say what you prefer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moslim_core.data.rows import well_formed
from moslim_core.errors import UserError
from moslim_core.models import DeviceName, DType, end_tokens
from moslim_core.policy.artifact import PolicyCard, load_policy
from moslim_core.policy.generation import Answer, Sampling, batch_seed, generate, room
from moslim_core.policy.open_batch import Ask, open_batch
from moslim_core.policy.reader import Reader
from moslim_core.policy.streamed_text import Pieces
from moslim_core.preferences import Message, condition, prompt_tokens
from moslim_core.preferences.prompting import as_said
from moslim_core.sampling import generation_config

Conversation = str | Sequence[Message]


class SteerablePolicy:
    """One policy that follows the preferences and levels that each call states; the instruction is written as in its training."""

    def __init__(self, model: Any, tokenizer: Any, card: PolicyCard) -> None:
        self.model, self.tokenizer, self.card = model, tokenizer, card

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        cache: Path | None = None,
        dtype: DType = "auto",
        device: DeviceName = "auto",
        base: str | Path | None = None,
    ) -> SteerablePolicy:
        """From a folder that `moslim policy` wrote; packaged models are unpacked in `cache`.

        `base`: where the model is that it was trained on, if that was a folder. Raises UserError if the folder is no policy, or the
        base's content is another.
        """
        return cls(*load_policy(Path(path), cache or _own_cache(), dtype, device, None if base is None else str(base)))

    def chat(
        self,
        messages: Conversation,
        targets: Mapping[str, int] | None = None,
        temperature: float = 0.7,
        max_new_tokens: int | None = None,
        seed: int = 0,
    ) -> str:
        """The answer to a message or a conversation under `targets` {preference: level}; what is not named is left open.

        An answer that is cut at `max_new_tokens` ends with an ellipsis (…); `chat_batch` gives the bare text.
        `max_new_tokens` is by default what the policy was trained with. Raises UserError for unknown preferences and levels.
        """
        answer = self.chat_batch([messages], [targets], temperature, max_new_tokens, seed)[0]
        return f"{answer.text}…" if answer.truncated else answer.text

    def chat_batch(
        self,
        conversations: Sequence[Conversation],
        targets: Sequence[Mapping[str, int] | None],
        temperature: float = 0.7,
        max_new_tokens: int | None = None,
        seed: int = 0,
    ) -> list[Answer]:
        """One answer (text, tokens, truncated) per conversation, each under its own targets, generated together."""
        if max_new_tokens is not None and max_new_tokens < 1:
            raise UserError(f"max_new_tokens={max_new_tokens} is no length of an answer: give 1 or more, or leave it out.")
        prompts = [conditioned(self.card, c, t) for c, t in zip(conversations, targets, strict=True)]
        return generate(self.model, self.tokenizer, prompts, Sampling(max_new_tokens or self.card.max_new_tokens, temperature), seed)

    def stream(
        self,
        messages: Conversation,
        targets: Mapping[str, int] | None = None,
        temperature: float = 0.7,
        max_new_tokens: int | None = None,
        seed: int = 0,
    ) -> Iterator[str]:
        """The answer of `chat` in pieces, as it is drawn; each ends on a whole character, and none marks a cut. Raises as `chat`, at the
        first piece.

        A model whose batches can't be put together (a recurrent state) gives its answer in one piece.
        """
        ask = self.ask(messages, targets, temperature, max_new_tokens, seed)
        ends = end_tokens(self.model, self.tokenizer)
        pieces = Pieces(Reader(self.tokenizer, ends))
        batch = open_batch(self.model, ends, self.tokenizer.pad_token_id)
        batch.join({0: ask})
        while batch:
            for drawn in batch.draw():
                if piece := pieces.add(drawn.token):
                    yield piece
        if piece := pieces.end():
            yield piece

    def ask(
        self, messages: Conversation, targets: Mapping[str, int] | None, temperature: float, max_new_tokens: int | None, seed: int
    ) -> Ask:
        """What `chat` would draw of the same arguments, for a batch that others join. Raises as `chat`."""
        config = generation_config(
            [], None, temperature, max_new_tokens=self.card.max_new_tokens if max_new_tokens is None else max_new_tokens
        )
        prompt = prompt_tokens(self.tokenizer, [conditioned(self.card, messages, targets)])[0]
        most = room(self.model, config.max_new_tokens)
        if most < 1:
            longest = config.max_new_tokens + most - 1
            raise UserError(f"an answer of {config.max_new_tokens} tokens is longer than the model reads.\nAsk for {longest} at most.")
        if len(prompt) > most:
            raise TooLong(
                f"the conversation has {len(prompt)} tokens, but the model's context leaves room for {most} "
                f"beside an answer of {config.max_new_tokens}.\nShorten it, or ask for a shorter answer."
            )
        return Ask(prompt, config.max_new_tokens, temperature, batch_seed(seed, 0))


class TooLong(UserError):
    """A conversation that does not fit into the model's context beside its answer."""


def conditioned(card: PolicyCard, messages: Conversation, targets: Mapping[str, int] | None) -> list[Message]:
    """The conversation that the policy of `card` reads for a message or a conversation. Raises UserError for what can't be asked."""
    said = [{"role": "user", "content": messages}] if isinstance(messages, str) else as_said(messages)
    whole = [{**m, "content": well_formed(m["content"])} for m in said]
    return condition(whole, card.preferences.targets(targets or {}), card.preferences, card.placement)


def _own_cache() -> Path:
    """A place for unpacked models where none is given: in the user's home, or, as a container's user may have none, here."""
    try:
        return Path.home() / ".cache" / "moslim"
    except RuntimeError:
        return Path(".moslim") / "models"
