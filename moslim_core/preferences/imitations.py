"""What looks like the instruction's delimiter, so that nobody but the renderer writes it. (ours)

A text is read as an eye reads it: compatibility forms, case, accents and look-alikes from other alphabets folded, what has no width
left out, and so are tags within a word. A tag that then reads as the delimiter loses its `<`; every other character of a text stays.
HTML entities are left alone: no chat template decodes them.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

NAME = "preferences"
OPEN, CLOSE = INSTRUCTION_MARKS = f"<{NAME}>", f"</{NAME}>"
# Stands where an imitation had its `<`.
HARMLESS = "\u2039"

# From Unicode's list of confusable characters (UTS #39) those that look like what a delimiter is written with, capitals too.
_LOOK_ALIKES = {
    "p": "\u0440\u03c1\u03f1\u2374\u2ca3\u01bf\u1d18\u1d29\u1d7d\u1d71\u13e2\ua4d1\u048f\u01a5\u1d88",
    "r": "\u0433\u0280\u024d\u027c\u027d\u027e\u1d26\u2c85\uab47\uab48\uab81\u13d2\u13a1\ua4e3\u1d72\u1d89\u0491",
    "e": "\u0435\u0454\u04bd\u04bf\u03b5\u025b\u212e\u0247\u1d07\uab32\u2c89\u13ac\ua4f0\u0511\u1d92",
    "f": "\u0192\u03dd\u0493\u0584\ua799\uab35\ua730\u1d6e\ua4dd\u1d82",
    "n": "\u043f\u03b7\u03bd\u0578\u057c\u0274\u2c9b\ua4e0\u014b\u019e\u0272\u1d70\u043d\u1d87",
    "c": "\u0441\u03f2\u03c2\u04ab\u1d04\u2ca5\u13df\ua4da\ua793\u023c\u0188\uabaf\U0001043d",
    "s": "\u0455\u0282\u01bd\ua731\u13da\ua4e2\u1d74\u1d8a\uabaa",
    "<": "\u02c2\u1438\u16b2\u276c\u276e\u2770\U0001d236",
    ">": "\u02c3\u1433\u203a\u276d\u276f\u2771\U0001d237",
    "/": "\u2044\u2215\u2571\u27cb\u29f8\U0001d23a",
}
_LETTERS = {look: plain for plain, looks in _LOOK_ALIKES.items() for look in looks}
# White letters on a black circle or square, and those of flags, which have no compatibility form.
_LETTERS |= {chr(start + ord(c) - ord("a")): c for c in set(NAME) for start in (0x1F150, 0x1F170, 0x1F1E6)}

# Fillers and the like that count as letters or symbols, and show nothing.
_BLANK = set("\u115f\u1160\u2800\u3164\uffa0")
_BEGINNINGS = re.compile("[<\u226e\uff1c\ufe64" + _LOOK_ALIKES["<"] + "]")
# What begins a tag -> what ends it.
_TAGS = {"<": ">", "[": "]"}


@lru_cache(maxsize=1 << 16)
def _seen(character: str) -> str:
    """What an eye makes of one character; '' for what has no width, and for white space."""
    if character in _LETTERS:
        return _LETTERS[character]
    visible = []
    for part in unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold()):
        # Marks on a letter, controls, formats, separators, and what is not assigned.
        if unicodedata.category(part)[0] in "MCZ" or part in _BLANK:
            continue
        visible.append(_LETTERS.get(part, part))
    return "".join(visible)


def neutralise(text: str) -> str:
    """`text` with every imitation of the delimiter made harmless (its '<' becomes '\u2039'); idempotent, all else unchanged."""
    if not _BEGINNINGS.search(text):
        return text
    forged: list[int] = []
    # What is seen up to here, each with its place in the text, without the tags that are over; and where those stand that are not.
    seen: list[tuple[str, int]] = []
    begun: dict[str, list[int]] = {">": [], "]": []}
    for place, character in enumerate(text):
        for c in _seen(character):
            if c in _TAGS:
                begun[_TAGS[c]].append(len(seen))
            elif c in begun:
                start = _last(begun[c], seen, c)
                if start is not None and c == ">" and _is_delimiter(seen, start) and not _generic(text, seen[start][1]):
                    forged.append(seen[start][1])
                    # No tag any more: what ends here is the tag around it, as when the changed text is read.
                    seen[start] = HARMLESS, seen[start][1]
                    start = _last(begun[c], seen, c)
                if start is not None:
                    del seen[start:]
                    continue
            seen.append((c, place))
    if not forged:
        return text
    letters = list(text)
    for place in forged:
        letters[place] = HARMLESS
    return "".join(letters)


def _last(begun: list[int], seen: list[tuple[str, int]], end: str) -> int | None:
    """Where the last tag begins that is not over; it is taken from `begun`."""
    while begun:
        start = begun.pop()
        # Others began within a tag that is over.
        if start < len(seen) and _TAGS.get(seen[start][0]) == end:
            return start
    return None


def _is_delimiter(seen: list[tuple[str, int]], start: int) -> bool:
    inside = "".join(letter for letter, _ in seen[start + 1 : start + 2 + len(CLOSE)])
    return inside in (NAME, f"/{NAME}")


_GENERIC = re.compile(rf"(?<=\w)<{NAME.capitalize()}>", re.ASCII)


def _generic(text: str, place: int) -> bool:
    """Whether a type argument stands there, as in `List<Preferences>`: code, and no delimiter, which is written in small letters."""
    return _GENERIC.match(text, place) is not None
