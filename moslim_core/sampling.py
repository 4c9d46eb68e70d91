"""How answers are drawn, the same in training, evaluation and chat: from the model's own distribution, as the settings say. (ours)

A model's own generation settings (a repetition penalty, top-k, suppressed tokens) would change what is learnt from, or what is measured,
in some places and not in others. Of them only the end tokens count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from moslim_core.errors import UserError

# Below it, logits that are divided by it may leave what a half-precision number can hold; draws would be greedy anyway.
LOWEST_TEMPERATURE = 1e-3

# Stated one by one: what is left open is filled in from the model's own settings.
NEUTRAL: dict[str, Any] = {
    "top_p": 1.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "length_penalty": 1.0,
    "min_length": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "renormalize_logits": False,
    "remove_invalid_values": False,
    "use_cache": True,
    "bad_words_ids": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
}


def generation_config(ends: Sequence[int], pad: int | None, temperature: float = 1.0, **limits: Any) -> Any:
    """A generation configuration that samples plainly at `temperature` (0: greedy) and ends at any token of `ends`.

    Raises UserError for a temperature or a length that is none.
    """
    from transformers import GenerationConfig

    if not (_is_number(temperature) and (temperature == 0 or temperature >= LOWEST_TEMPERATURE)):
        raise UserError(f"temperature={temperature!r} is none.\nGive 0 for greedy answers, or {LOWEST_TEMPERATURE:g} and more.")
    most = limits.get("max_new_tokens")
    if most is not None and not (_is_number(most) and int(most) == most >= 1):
        raise UserError(f"max_new_tokens={most!r} is no length of an answer.\nGive a whole number, 1 or more.")
    # A greedy answer asks for no distribution, and the library warns of settings that only shape one.
    drawn = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {"do_sample": False, "temperature": 1.0}
    return GenerationConfig(eos_token_id=list(ends), pad_token_id=pad, **(NEUTRAL | drawn | limits))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def make_neutral(model: Any, ends: Sequence[int], pad: int | None) -> None:
    """Put a neutral configuration in the place of the model's own, so that nothing is filled in from it, whoever draws."""
    model.generation_config = generation_config(ends, pad)
