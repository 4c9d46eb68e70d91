"""A chat template that writes the instruction by itself: `apply_chat_template(messages, preferences={"warmth": 3})`. (ours)

It is instruction.jinja between the schema's words and the model's own template. What it writes is what `condition` writes, imitations of
the delimiter made harmless included: a template knows no Unicode data, so the look-alikes come with it, found here by asking
`neutralise`'s own eye about every character. That special tokens in content stay text no template can see to.
"""

from __future__ import annotations

import itertools
import json
import string
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from moslim_core.preferences import Placement, PreferenceSchema, Targets, render
from moslim_core.preferences.imitations import CLOSE, HARMLESS, NAME, OPEN, _seen
from moslim_core.preferences.prompting import BREAK, LEAD

BODY = Path(__file__).with_name("instruction.jinja")
MARKS = [NAME, f"/{NAME}"]
BRACKETS = frozenset("<>[]")
# What an imitation is read from.
RELEVANT = BRACKETS.union(*MARKS)
# What has letters that Latin's could be taken for: all but ideographs and Hangul, which come by the ten thousand.
ALPHABETS = (range(0x3400), range(0xA000, 0xAC00), range(0xD7A4, 0xD800), range(0xE000, 0x17000), range(0x18D00, 0x20000))
# Where the template cuts a text for itself: a private-use character, which has no width for it.
CUT = "\U000f0000"
# The first line break after a block is the block's, not the text's: this keeps what the model's template begins with.
REST = "{{ '' }}"


def with_preferences(template: str, schema: PreferenceSchema, placement: Placement) -> str:
    """`template`, a model's own, below what writes the instruction; the variable `preferences` says what is requested."""
    looks = _characters()
    values: dict[str, Any] = {
        "moslim_open": OPEN + LEAD,
        "moslim_close": CLOSE,
        "moslim_break": BREAK,
        "moslim_placement": placement,
        "moslim_harmless_mark": HARMLESS,
        "moslim_marks": MARKS,
        "moslim_prefixes": sorted({mark[:length] for mark in MARKS for length in range(len(mark) + 1)}),
        "moslim_word": string.ascii_letters + string.digits + "_",
        "moslim_cut": CUT,
        "moslim_blank": looks.blank,
        "moslim_shown": looks.shown,
        "moslim_several": looks.several,
    }
    lines = [f"{{%- set {name} = {_quoted(value)} -%}}" for name, value in values.items()]
    for name, table in (("moslim_brackets", {**looks.brackets, CUT: " "}), ("moslim_letters", looks.letters)):
        lines.append(f"{{%- set {name} = ''.maketrans({_quoted(''.join(table))}, {_quoted(''.join(table.values()))}) -%}}")
    lines.append(f"{{%- set moslim_levels = {{{', '.join(_levels(schema))}}} -%}}")
    return "\n".join([*lines, BODY.read_text(encoding="utf-8").rstrip("\n")]) + REST + template


def own_template(template: str) -> str:
    """The model's own template out of one that `with_preferences` made."""
    return template.partition(BODY.read_text(encoding="utf-8").rstrip("\n") + REST)[2]


def clause(name: str, level: int, schema: PreferenceSchema) -> str:
    """What the instruction says of one level, e.g. `warm (warmth 3/3)`."""
    return render(Targets({name: level}), schema).removeprefix(OPEN + LEAD).removesuffix(CLOSE)


def _levels(schema: PreferenceSchema) -> list[str]:
    """JSON's keys are text, a template's may be numbers."""
    return [
        f"{json.dumps(p.name)}: {{{', '.join(f'{level}: {json.dumps(clause(p.name, level, schema))}' for level in p.requestable)}}}"
        for p in schema.preferences
    ]


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _invisible(character: str) -> bool:
    """What a template can find out about a character: marks, controls, formats, separators and what is not assigned."""
    return not character.isprintable() or (f"a{character}".isidentifier() and not character.isalnum())


class Looks(NamedTuple):
    """How characters are seen by `neutralise`, as far as an imitation can be read from them.

    `brackets`, `letters`: {look-alike: one character}; `several`: {look-alike: some letters of a mark}. `blank`: what has no width though
    it is not `_invisible`; `shown`: what has, though it is.
    """

    brackets: dict[str, str]
    letters: dict[str, str]
    several: dict[str, str]
    blank: str
    shown: str


@cache
def _characters() -> Looks:
    looks: dict[str, str] = {}
    blank, shown = [" "], []
    for character in map(chr, itertools.chain(*ALPHABETS)):
        if character in RELEVANT or not character.isprintable():
            continue
        seen = _seen(character)
        if seen:
            looks[character] = seen
            if _invisible(character):
                shown.append(character)
        elif character != " " and not _invisible(character):
            blank.append(character)
    single = {c: seen for c, seen in looks.items() if seen in RELEVANT}
    return Looks(
        brackets={c: seen for c, seen in single.items() if seen in BRACKETS},
        letters={c: seen for c, seen in single.items() if seen not in BRACKETS},
        several={c: seen for c, seen in looks.items() if len(seen) > 1 and seen in MARKS[1]},
        blank="".join(blank),
        shown="".join(shown),
    )
