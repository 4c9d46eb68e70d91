"""The README.md of an exported policy: what can be asked, the exact text that asks for it, how to open it, how well it follows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from moslim_core.policy.artifact import PolicyCard
from moslim_core.policy.card import ends
from moslim_core.preferences import Preference, PreferenceSchema, Targets, condition, render

DATA_CARD = "data_card.md"


class Record(NamedTuple):
    """What a run measured of a policy: `findings` as the report tells them, and the data card in Markdown."""

    findings: dict[str, Any] | None
    data_card: str | None


def policy_readme(card: PolicyCard, tokenizer: Any, dtype: str, record: Record | None) -> str:
    """Markdown of a merged folder, with the front matter that hubs read."""
    best = _best(card, record)
    one = Targets({best.name: best.k})
    return _joined(
        _front(card, "transformers"),
        _title(card, f"One plain model in {dtype}: the adapter is merged into `{card.base.name}` (content {card.base.digest[:12]})."),
        levels_list(card.preferences),
        "## How to ask",
        "The chat template writes what is asked for, as in training; nothing but transformers or vLLM is needed. In this folder, with "
        f"{best.name} at its lowest and at its highest level:",
        '```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\nfolder = "."\n'
        "tokenizer = AutoTokenizer.from_pretrained(folder)\nmodel = AutoModelForCausalLM.from_pretrained(folder)\n"
        'messages = [{"role": "user", "content": "How do bees make honey?"}]\n'
        f"for level in {ends(best)}:\n"
        f'    inputs = tokenizer.apply_chat_template(messages, preferences={{"{best.name}": level}}, add_generation_prompt=True,\n'
        '                                           return_tensors="pt", return_dict=True)\n'
        f"    answer = model.generate(**inputs, max_new_tokens={card.max_new_tokens})\n"
        '    print(level, tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))\n```',
        "With `vllm serve FOLDER` a request says it in `chat_template_kwargs`:",
        "```json\n"
        + json.dumps(
            {
                "model": "FOLDER",
                "messages": [{"role": "user", "content": "How do bees make honey?"}],
                "chat_template_kwargs": {"preferences": dict(one)},
                "max_tokens": card.max_new_tokens,
            },
            indent=1,
        )
        + "\n```",
        f"A level that there is not is refused. {best.name}={best.k} gives the model this text:",
        f"```text\n{example_prompt(card, one)}\n```",
        *_figures(record),
        *_limits(card),
        "Nobody raises a level by imitating the instruction: in every message what reads as its marks loses its `<`. A pasted instruction "
        "is therefore no instruction here; use `preferences`. What a template can't see to is the gateway's: a message that holds one of "
        f"the tokenizer's special tokens, {special(tokenizer)}, is read as that token, so take them out of what users send, and let users "
        "set no `chat_template_kwargs` that you did not mean them to set. Messages are text with a role (system, user, assistant, tool); "
        "tool calls are refused.",
    )


def special(tokenizer: Any) -> str:
    """A special token of the tokenizer's as an example, in Markdown."""
    return f"such as `{tokenizer.eos_token}`"


def _best(card: PolicyCard, record: Record | None) -> Preference:
    """The preference that the policy follows most, where a run measured that; else the first that is steered, or a guard."""
    measured = (record.findings or {}).get("best") if record is not None else None
    return card.preferences[measured] if measured else min(card.preferences.preferences, key=lambda p: p.is_guard)


def example_prompt(card: PolicyCard, targets: Targets) -> str:
    """A short conversation with the instruction in its place."""
    messages = condition([{"role": "user", "content": "How do bees make honey?"}], targets, card.preferences, card.placement)
    return "\n".join(f"[{m['role']}]\n{m['content']}" for m in messages)


def levels_list(schema: PreferenceSchema) -> str:
    """A line a preference: its name, its meaning, its levels."""
    return "\n".join(_preference(p) for p in schema.preferences)


def instructions(schema: PreferenceSchema) -> Iterator[tuple[str, int, str]]:
    """(preference, level, the whole instruction that asks for it alone)."""
    for preference in schema.preferences:
        for level in preference.requestable:
            yield preference.name, level, render(Targets({preference.name: level}), schema)


def pasted_readme(card: PolicyCard, title: str, how: str, record: Record | None) -> str:
    """Markdown of a form whose template writes no instruction: who asks pastes it. `how`: how it is opened and used."""
    best = _best(card, record)
    two = Targets({p.name: p.k for p in card.preferences.preferences[:2]})
    rows = [f"| {name} | {level} | `{text}` |" for name, level, text in instructions(card.preferences)]
    place = {
        "system": "at the end of the system message, below a blank line where there is other text in it",
        "user_prefix": "at the beginning of the last user message, above a blank line",
        "user_suffix": "at the end of the last user message, below a blank line",
    }[card.placement]
    return _joined(
        _front(card, "gguf"),
        _title(card, title),
        levels_list(card.preferences),
        "## How to open it",
        how,
        "## How to ask",
        f"Paste an instruction {place}:",
        f"```text\n{example_prompt(card, Targets({best.name: best.k}))}\n```",
        "\n".join(["| preference | level | instruction |", "|---|---|---|", *rows]),
        f"Several at once stand in one, in the order of this table, with `; ` between: `{render(two, card.preferences)}`",
        *_figures(record),
        *_limits(card),
        "Whoever writes a message may write an instruction: nothing here takes imitations out. Where users must not, use the merged folder "
        "(`moslim export --to merged`), or do it in front of the server (`moslim_core.preferences.condition`).",
    )


def write_data_card(folder: Path, record: Record | None) -> None:
    """What the cards link to, where a run has it."""
    if record is not None and record.data_card is not None:
        (folder / DATA_CARD).write_text(record.data_card, encoding="utf-8")


def _joined(*parts: str) -> str:
    return "\n\n".join(parts) + "\n"


def _front(card: PolicyCard, library: str) -> str:
    # A folder of somebody's machine is no model of the hub.
    base = f"base_model: {json.dumps(card.base.name)}\n" if card.base.revision else ""
    return f"---\nlibrary_name: {library}\npipeline_tag: text-generation\n{base}tags: [moslim, preferences, {card.optimiser}]\n---"


def _title(card: PolicyCard, what: str) -> str:
    return (
        f"# Policy that follows stated preferences\n\n{what} {card.steps} steps of {card.optimiser}, answers of up to "
        f"{card.max_new_tokens} tokens. A prompt may ask for a level of any of these; what is not named is left open:"
    )


def _preference(preference: Preference) -> str:
    about = f" ({preference.description})" if preference.description else ""
    return f"- **{preference.name}**{about}: {', '.join(f'{level} = {preference.label(level)}' for level in preference.requestable)}"


def _figures(record: Record | None) -> Iterator[str]:
    if record is None:
        return
    if record.findings is not None:
        yield "## How well it follows"
        yield record.findings["headline"]
        yield "\n".join(f"- **{of['preference']}**: {of['sentence']}" for of in record.findings["findings"])
        yield from record.findings["remarks"]
    if record.data_card is not None:
        yield f"The rated answers that the reward model was trained on: [{DATA_CARD}]({DATA_CARD})."


def _limits(card: PolicyCard) -> Iterator[str]:
    held_out = ", ".join(" with ".join(f"{name} {level}" for name, level in pair.items()) for pair in card.held_out) or "none"
    yield "## Limits"
    yield (
        f"The instruction stands in the `{card.placement}` position. Combinations that training never asked for: {held_out}. Answers are "
        f"no truer or safer than those of `{card.base.name}` unless a preference says so, and its licence holds for this model, too."
    )
