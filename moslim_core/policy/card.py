"""The README.md beside a saved policy: what can be asked of it, how it was trained, what training saw, how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moslim_core.policy.artifact import BASE, PolicyCard
from moslim_core.preferences import Preference


def model_card(card: PolicyCard, history: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, with the front matter that hubs read. `history`: the trainer's logs, one mapping per update."""
    example = max(card.preferences.preferences, key=lambda p: _moved(p, history))
    lines = [
        f"---\nlibrary_name: peft\nbase_model: {json.dumps(card.base.name)}\ntags: [moslim, {card.optimiser}]\n---",
        "# Policy that follows stated preferences",
        f"`{card.base.name}` (content {card.base.digest[:12]}) with a LoRA adapter, {card.steps} steps of {card.optimiser}. Each "
        "prompt may ask for a level of any of these; what is not named is left open:",
        "\n".join(_preference(p) for p in card.preferences.preferences),
        "Expected level of the answers by requested level, by the reward model that trained it: the first quarter of training and the "
        "last. A reward model flatters the policy that it trained; the run's report has an independent judge's view.",
        "\n".join(_curves(card, history)),
        f"In this folder, with {example.name} at its lowest and at its highest level:",
        "```python\nfrom moslim_core.policy.steerable import SteerablePolicy\n\n"
        f'policy = SteerablePolicy.from_pretrained("."{_where(card)}\n'
        f"for level in {ends(example)}:\n"
        f'    print(level, policy.chat("How do bees make honey?", {{"{example.name}": level}}))\n```',
        f"The instruction stands in the `{card.placement}` position. Combinations that training never asked for: {_pairs(card)}. Answers "
        "are no truer or safer than the base's unless a preference says so.",
    ]
    return "\n\n".join(lines) + "\n"


def ends(preference: Preference) -> list[int]:
    """The lowest and the highest level that may be requested; of a guard the one level."""
    return sorted({preference.requestable[0], preference.requestable[-1]})


def _moved(preference: Preference, history: Sequence[Mapping[str, Any]]) -> tuple[bool, float]:
    """How far the last quarter's answers moved between the two ends, as a share of the range; guards come last."""
    low, high = (_recorded(preference, level, _quarters(history)[1]) for level in (preference.requestable[0], preference.requestable[-1]))
    share = (np.mean(high) - np.mean(low)) / (preference.k - 1) if low and high else -1.0
    return not preference.is_guard, float(share)


def _where(card: PolicyCard) -> str:
    """A base that was somebody's folder is found by nobody else."""
    return f", base=FOLDER)  # FOLDER: where {card.base.name} is" if card.base.is_folder and card.base.name != BASE else ")"


def _preference(preference: Preference) -> str:
    about = f" ({preference.description})" if preference.description else ""
    levels = ", ".join(f"{level} = {preference.label(level)}" for level in preference.requestable)
    return f"- **{preference.name}**{about}: {levels}"


def _curves(card: PolicyCard, history: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = ["| preference | requested | first quarter | last quarter |", "|---|---|---|---|"]
    for preference in card.preferences.preferences:
        for level in preference.requestable:
            first, last = (_recorded(preference, level, part) for part in _quarters(history))
            rows.append(f"| {preference.name} | {level} of {preference.k} | {_mean(first)} | {_mean(last)} |")
    return rows


def _quarters(history: Sequence[Mapping[str, Any]]) -> tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]:
    """The first and the last quarter of the updates."""
    quarter = max(1, len(history) // 4)
    return history[:quarter], history[-quarter:]


def _recorded(preference: Preference, level: int, part: Sequence[Mapping[str, Any]]) -> list[float]:
    """The expected levels of the answers to requests for a level."""
    name = f"expected_level/{preference.name}/{level}"
    return [log[name] for log in part if log.get(name) is not None]


def _mean(values: list[float]) -> str:
    return f"{np.mean(values):.2f}" if values else "not drawn"


def _pairs(card: PolicyCard) -> str:
    return ", ".join(" with ".join(f"{name} {level}" for name, level in pair.items()) for pair in card.held_out) or "none"
