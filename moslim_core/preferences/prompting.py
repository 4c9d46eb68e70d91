"""One renderer between targets and text: the instruction that a policy reads, and nothing a user types can forge.

The instruction stands inside a fixed delimiter; order and wording vary inside it. `parse(render(t)) == t`. In every user and
system message the delimiter is escaped, so that only the operator's instruction counts. Ordinary wishes stay as they are. (ours)
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

from jinja2 import TemplateError

from moslim_core.errors import UserError
from moslim_core.preferences.schema import PreferenceSchema, Targets

Message = dict[str, str]
Placement = Literal["system", "user_prefix", "user_suffix"]

OPEN, CLOSE = "<preferences>", "</preferences>"
# Small models follow a named style about twice as far as a bare list of levels.
LEAD = "Answer style: "

# Each holds the label, the name, the level and K once. `_CLAUSE` reads all of them: keep them in step (a property test does).
PARAPHRASES = (
    "{label} ({name} {level}/{k})",
    "{name} {level}/{k}: {label}",
    "{name}: {label} ({level} of {k})",
)
_CLAUSE = re.compile(
    r"(?P<l1>[^;:()]+) \((?P<n1>\w+) (?P<v1>\d+)/(?P<k1>\d+)\)\Z"
    r"|(?P<n2>\w+) (?P<v2>\d+)/(?P<k2>\d+): (?P<l2>[^;:()]+)\Z"
    r"|(?P<n3>\w+): (?P<l3>[^;:()]+) \((?P<v3>\d+) of (?P<k3>\d+)\)\Z"
)

# Characters that a reader does not see could hide a forged delimiter from a plain comparison; full-width forms look alike.
_GAP = (
    r"[\s\0-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]*"
)
_FORGED = re.compile(r"[<\uff1c\ufe64](?=" + _GAP + r"(?:[/\uff0f]" + _GAP + ")?" + _GAP.join("preferences") + r")", re.IGNORECASE)


def render(targets: Targets, schema: PreferenceSchema, rng: random.Random | None = None) -> str:
    """The instruction for `targets`, '' for none. With `rng`, order and wording vary; without, schema order and first wording."""
    names = [name for name in schema.names if name in targets]
    if not names:
        return ""
    if rng is not None:
        rng.shuffle(names)
    clauses = []
    for name in names:
        preference = schema[name]
        wording = rng.choice(PARAPHRASES) if rng is not None else PARAPHRASES[0]
        level = targets[name]
        clauses.append(wording.format(label=preference.label(level), name=name, level=level, k=preference.k))
    return f"{OPEN}{LEAD}{'; '.join(clauses)}{CLOSE}"


def longest_instruction(schema: PreferenceSchema, count_tokens: Callable[[str], int]) -> int:
    """Tokens that the longest instruction can take, its separators included."""
    clauses = [
        max(
            count_tokens(w.format(label=p.label(level), name=p.name, level=level, k=p.k) + "; ")
            for level in p.requestable
            for w in PARAPHRASES
        )
        for p in schema.preferences
    ]
    return count_tokens(f"\n\n{OPEN}{LEAD}{CLOSE}") + sum(clauses)


def parse(text: str, schema: PreferenceSchema) -> Targets:
    """The targets stated in `text`, empty where no instruction stands. Raises UserError on a malformed instruction."""
    start, end = text.find(OPEN), text.find(CLOSE)
    if start < 0 or end < start:
        return Targets()
    levels: dict[str, int] = {}
    for clause in text[start + len(OPEN) : end].removeprefix(LEAD).split("; "):
        match = _CLAUSE.match(clause)
        if not match:
            raise UserError(f"can't read the preference clause {clause!r}: it was not written by this renderer")
        group = next(g for g in "123" if match[f"n{g}"])
        name, level, k, label = match[f"n{group}"], int(match[f"v{group}"]), int(match[f"k{group}"]), match[f"l{group}"]
        preference = schema[name]
        if k != preference.k or not 1 <= level <= k or preference.label(level) != label:
            raise UserError(f"the preference clause {clause!r} does not fit the schema's {name} (K={preference.k})")
        levels[name] = level
    return schema.targets(levels)


def neutralise(text: str) -> str:
    """`text` with every imitation of the delimiter made harmless ('<' becomes '\u2039'); idempotent, all else unchanged."""
    return _FORGED.sub("\u2039", text)


def condition(
    messages: Sequence[Message],
    targets: Targets,
    schema: PreferenceSchema,
    placement: Placement,
    rng: random.Random | None = None,
) -> list[Message]:
    """The conversation that the policy reads: messages with imitations neutralised and the instruction in its place.

    `system` joins the user's own system prompt if there is one; `user_prefix` and `user_suffix` join the last user turn.
    Raises UserError if the conversation does not end with a user turn.
    """
    if not messages or messages[-1]["role"] != "user":
        raise UserError("a conversation must end with a user message, so that the policy has something to answer")
    clean = [{**m, "content": neutralise(m["content"])} if m["role"] in ("user", "system") else dict(m) for m in messages]
    instruction = render(targets, schema, rng)
    if not instruction:
        return clean
    if placement == "system":
        if clean[0]["role"] == "system":
            clean[0]["content"] += f"\n\n{instruction}"
        else:
            clean.insert(0, {"role": "system", "content": instruction})
    elif placement == "user_prefix":
        clean[-1]["content"] = f"{instruction}\n\n{clean[-1]['content']}"
    else:
        clean[-1]["content"] += f"\n\n{instruction}"
    return clean


def chat_text(tokenizer: Any, conversation: Sequence[Message]) -> str:
    """A conversation as the model's chat template writes it, up to where the answer begins.

    Raises UserError if the template refuses it: some know no system role, or want turns to alternate.
    """
    try:
        return tokenizer.apply_chat_template(list(conversation), tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        roles = ", ".join(m["role"] for m in conversation)
        raise UserError(
            f"the model's chat template refuses a conversation of {roles}: {error}.\n"
            "Leave system messages out, let user and assistant alternate, and set policy.placement=user_suffix."
        ) from error


def require_placement(tokenizer: Any, schema: PreferenceSchema, placement: Placement) -> None:
    """Raises UserError if the model's chat template can't take an instruction where `placement` puts it, or leaves it out."""
    preference = schema.preferences[0]
    targets = schema.targets({preference.name: preference.requestable[-1]})
    asked = condition([{"role": "user", "content": "?"}], targets, schema, placement)
    try:
        whole = render(targets, schema) in chat_text(tokenizer, asked)
    except UserError:
        whole = False
    if not whole:
        raise UserError(
            f"policy.placement={placement}, but the model's chat template takes no instruction there.\n"
            "Set policy.placement to user_suffix or user_prefix."
        )
