"""One renderer between targets and text: the instruction that a policy reads, and nothing a user types can forge.

The instruction stands inside a fixed delimiter; order and wording vary inside it. What `render` writes `parse` reads, in the place
where the policy looks for it and nowhere else. In every message, whoever said it, imitations of the delimiter are made harmless
(imitations.py), and no content gives a special token (tokens.py). Ordinary wishes stay as they are. (ours)
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from moslim_core.errors import UserError
from moslim_core.preferences.imitations import CLOSE, OPEN, neutralise
from moslim_core.preferences.schema import PreferenceSchema, Targets

Message = dict[str, str]
Placement = Literal["system", "user_prefix", "user_suffix"]

# Whose turns there are; a template writes the word into its own marks.
ROLES = ("system", "user", "assistant", "tool")
# Between the instruction and what was said.
BREAK = "\n\n"
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


def clauses(schema: PreferenceSchema) -> re.Pattern[str]:
    """Finds in a text what only an instruction says, such as `warmth 3/3`: an answer that has it repeats one."""
    names = "|".join(map(re.escape, schema.names))
    return re.compile(rf"(?i){re.escape(LEAD.strip())}|\b(?:{names}) \d+/\d+|\b(?:{names}): [^;:()]+ \(\d+ of \d+")


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
    return count_tokens(f"{BREAK}{OPEN}{LEAD}{CLOSE}") + sum(clauses)


def parse(conversation: Sequence[Message], schema: PreferenceSchema, placement: Placement) -> Targets:
    """The targets stated in a conversation that `condition` made, empty where no instruction stands in its place.

    Raises UserError where one stands there that does not fit the schema.
    """
    if not conversation:
        return Targets()
    message = conversation[0] if placement == "system" else conversation[-1]
    text = message["content"]
    if message["role"] != ("system" if placement == "system" else "user"):
        return Targets()
    if placement == "user_prefix":
        end = text.find(CLOSE)
        whole, rest = text[: end + len(CLOSE)] if end >= 0 else "", text[end + len(CLOSE) :]
        stands = rest.startswith(BREAK)
    else:
        start = max(text.rfind(OPEN), 0)
        whole, rest = text[start:], text[:start]
        stands = rest.endswith(BREAK) or (not rest and placement == "system")
    if not (stands and whole.startswith(OPEN) and whole.endswith(CLOSE)):
        return Targets()
    return read(whole, schema)


def read(instruction: str, schema: PreferenceSchema) -> Targets:
    """The targets that `render` wrote as `instruction`. Raises UserError on one that it did not write."""
    levels: dict[str, int] = {}
    for clause in instruction.removeprefix(OPEN).removesuffix(CLOSE).removeprefix(LEAD).split("; "):
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


def as_said(conversation: Sequence[Message]) -> list[Message]:
    """Who said what, without any other field that a template might print. Raises UserError for a role that there is not, or no text."""
    for message in conversation:
        if not isinstance(message, Mapping):
            raise UserError(f"a message has a role and a content, but one is {type(message).__name__}.\nGive its text and its role.")
        if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
            given = f"role {message.get('role')!r} with {type(message.get('content')).__name__}"
            raise UserError(f"a message is text of one of the roles {', '.join(ROLES)}, but one has {given}.\nGive its text and its role.")
    return [{"role": m["role"], "content": m["content"]} for m in conversation]


def condition(
    messages: Sequence[Message],
    targets: Targets,
    schema: PreferenceSchema,
    placement: Placement,
    rng: random.Random | None = None,
) -> list[Message]:
    """The conversation that the policy reads: what was said with imitations neutralised, and the instruction in its place.

    `system` joins the user's own system prompt if there is one; `user_prefix` and `user_suffix` join the last user turn.
    Raises UserError if the conversation does not end with a user turn, or as `as_said`.
    """
    clean = [{**m, "content": neutralise(m["content"])} for m in as_said(messages)]
    if not clean or clean[-1]["role"] != "user":
        raise UserError("a conversation must end with a user message, so that the policy has something to answer")
    instruction = render(targets, schema, rng)
    if not instruction:
        return clean
    if placement == "system":
        if clean[0]["role"] == "system":
            clean[0]["content"] += f"{BREAK}{instruction}"
        else:
            clean.insert(0, {"role": "system", "content": instruction})
    elif placement == "user_prefix":
        clean[-1]["content"] = f"{instruction}{BREAK}{clean[-1]['content']}"
    else:
        clean[-1]["content"] += f"{BREAK}{instruction}"
    return clean


def chat_text(tokenizer: Any, conversation: Sequence[Message], answered: bool = False) -> str:
    """A conversation as the model's chat template writes it, up to where the answer begins; `answered`: with its last turn's end.

    Raises UserError if the template refuses it: some know no system role, or want turns to alternate.
    """
    try:
        return tokenizer.apply_chat_template(list(conversation), tokenize=False, add_generation_prompt=not answered)
    except Exception as error:  # a template is a program, which may raise anything
        roles = ", ".join(m["role"] for m in conversation)
        raise UserError(
            f"the model's chat template refuses a conversation of {roles}: {error}.\n"
            "Leave system messages out, let user and assistant alternate, and set policy.placement=user_suffix."
        ) from error


def require_placement(tokenizer: Any, schema: PreferenceSchema, placement: Placement) -> None:
    """Raises UserError if the model's chat template can't take an instruction where `placement` puts it, or leaves it out."""
    preference = schema.preferences[0]
    targets = schema.targets({preference.name: preference.requestable[-1]})
    conversation = condition([{"role": "user", "content": "?"}], targets, schema, placement)
    try:
        whole = render(targets, schema) in chat_text(tokenizer, conversation)
    except UserError:
        whole = False
    if not whole:
        raise UserError(
            f"policy.placement={placement}, but the model's chat template takes no instruction there.\n"
            "Set policy.placement to user_suffix or user_prefix."
        )
