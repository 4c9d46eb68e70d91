"""A trained policy in three lines of Python: load it, ask it, say what you prefer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moslim_core.data.rows import well_formed
from moslim_core.errors import UserError
from moslim_core.models import DeviceName, DType
from moslim_core.policy.artifact import PolicyCard, load_policy
from moslim_core.policy.generation import Answer, Sampling, generate
from moslim_core.preferences import Message, condition
from moslim_core.preferences.prompting import as_said

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

        `max_new_tokens` is by default what the policy was trained with. Raises UserError for unknown preferences and levels.
        """
        return self.chat_batch([messages], [targets], temperature, max_new_tokens, seed)[0].text

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
        schema = self.card.preferences
        said = [[{"role": "user", "content": c}] if isinstance(c, str) else as_said(c) for c in conversations]
        asked = [
            condition([{**m, "content": well_formed(m["content"])} for m in c], schema.targets(t or {}), schema, self.card.placement)
            for c, t in zip(said, targets, strict=True)
        ]
        return generate(self.model, self.tokenizer, asked, Sampling(max_new_tokens or self.card.max_new_tokens, temperature), seed)


def _own_cache() -> Path:
    """A place for unpacked models where none is given: in the user's home, or, as a container's user may have none, here."""
    try:
        return Path.home() / ".cache" / "moslim"
    except RuntimeError:
        return Path(".moslim") / "models"
