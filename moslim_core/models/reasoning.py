"""How a model marks what it thinks before it answers, and what of a text is then said. (ours)

Known marks are looked for in the chat template and among the added tokens. Others show in three ways: by their names, as the template
opens them where an answer begins and nowhere else, and as the template leaves what is between them out of earlier answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import NamedTuple

from moslim_core.errors import UserError


class Thought(NamedTuple):
    """The marks between which a model thinks."""

    begin: str
    end: str


# How reasoning models mark what they think before they answer.
KNOWN = (
    Thought("<think>", "</think>"),
    Thought("<thinking>", "</thinking>"),
    Thought("<thought>", "</thought>"),
    Thought("<reasoning>", "</reasoning>"),
    Thought("<seed:think>", "</seed:think>"),
    Thought("[THINK]", "[/THINK]"),
    Thought("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    Thought("<|START_THINKING|>", "<|END_THINKING|>"),
    Thought("<|begin_of_thought|>", "<|end_of_thought|>"),
    Thought("<|channel|>analysis", "<|channel|>final<|message|>"),
    Thought("<|channel>thought", "<channel|>"),
)
# What marks look like: <x>, <|x|>, [X], and x in the triangles that some models write.
_MARK = re.compile(r"<[^<>\s{}]{1,40}>|\[/?[A-Za-z][A-Za-z_]{1,40}\]|\u25c1[^\u25c1\u25b7\s]{1,40}\u25b7")
_PARTS = re.compile(r"(<\|?|\[|\u25c1)(.+?)(\|?>|\]|\u25b7)\Z")
_ENDING = re.compile(r"(?:<\|?|\[|\u25c1)(?:/|end(?:_|\b))|_end(?:\b|_)", re.IGNORECASE)
# Words that name thoughts, and such as name what is said.
_THINKS = re.compile("think|thought|reason|reflect|scratch|ponder|deliberat|analysis|monologue|rationale", re.IGNORECASE)
_SAYS = re.compile("answer|response|reply|final|output|assistant|message|solution|model|chatbot", re.IGNORECASE)

Turns = list[dict[str, str]]
# Writes turns by the chat template, up to where an answer begins or with the last turn's end.
Write = Callable[[Turns, bool], str]
_ASKED, _THOUGHT, _SAID = "moslim asks", "moslim thinks", "moslim answers"


def thoughts_of(template: str, added: Iterable[str], write: Write, name: str) -> tuple[Thought, ...]:
    """How a model marks thoughts; () where it does not. `added`: its added tokens.

    Raises UserError where its template begins an answer with a thought whose end can't be told.
    """
    tokens = set(added)
    prompt = write([{"role": "user", "content": _ASKED}], False)
    known = tuple(t for t in KNOWN if t.begin in template or t.end in template or t.begin in tokens)
    marks = tokens | {match[0] for match in _MARK.finditer(template + prompt)}
    pairs = {Thought(mark, end) for mark in marks if not _is_ending(mark) for end in _ends(mark) if end in marks}
    other = {pair for pair in pairs.difference(known) if _THINKS.search(pair.begin) or _is_left_out(pair, write)}
    return (*known, *sorted((other | _opened(prompt, marks, write, name)).difference(known)))


def _is_ending(mark: str) -> bool:
    return bool(_ENDING.search(mark))


def _ends(mark: str) -> list[str]:
    """What may end what `mark` begins, likeliest first."""
    parts = _PARTS.match(mark)
    if not parts:
        return []
    left, name, right = parts.groups()
    turned = [name.replace(a, b) for a, b in (("begin", "end"), ("start", "end"), ("BEGIN", "END"), ("START", "END")) if a in name]
    named = [f"end_of_{name}", f"end_{name}", f"{name}_end", f"END_OF_{name}", f"END_{name}", f"{name}_END"]
    return [f"{left}{ending}{right}" for ending in (*turned, f"/{name}", *named)] + ([f"</|{name}|>"] if left == "<|" else [])


def _is_left_out(pair: Thought, write: Write) -> bool:
    """Whether the template drops what is between the marks from an earlier answer: it says so itself that it is no part of it."""
    said = {"role": "assistant", "content": f"{pair.begin}{_THOUGHT}{pair.end}{_SAID}"}
    question = {"role": "user", "content": _ASKED}
    try:
        text = write([question, said, question], False)
    except UserError:
        return False
    return _SAID in text and _THOUGHT not in text


def _opened(prompt: str, marks: set[str], write: Write, name: str) -> set[Thought]:
    """What the template opens before an answer that is yet to be drawn, and not before one that was given."""
    before = prompt.rpartition(_ASKED)[2]
    given = write([{"role": "user", "content": _ASKED}, {"role": "assistant", "content": _SAID}], True)
    header = given.rpartition(_SAID)[0].rpartition(_ASKED)[2]
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, header, strict=False)))
    opened: set[Thought] = set()
    at = 0
    while match := _MARK.search(before, at):
        mark, at = match[0], match.end()
        if at <= shared or _is_ending(mark) or _SAYS.search(mark):
            continue
        known = [t for t in KNOWN if before.startswith(t.begin, match.start())]
        ends = [t.end for t in known] or _ends(mark)
        if closed := [end for end in ends if end in before[at:]]:
            at = before.index(closed[0], at) + len(closed[0])
            continue
        there = [end for end in ends if end in marks]
        if not (known or there) and mark.startswith("<|"):
            raise _without_end(name, mark)
        opened.update(known or [Thought(mark, there[0] if there else next(end for end in ends if "/" in end))])
    if not opened and _THINKS.search(words := before[max(at, shared) :]):
        raise _without_end(name, words.strip())
    return opened


def _without_end(name: str, words: str) -> UserError:
    return UserError(
        f"{name} begins every answer with {words[:60]!r}: thoughts, whose end can't be told from the answer.\n"
        "Give a template that leaves thinking out, or one with marks that end it, such as <think> and </think>."
    )


def begun(thoughts: Iterable[Thought], prompt: str) -> set[Thought]:
    """Those that the prompt has begun, so that the answer holds their end only."""
    return {t for t in thoughts if prompt.rfind(t.begin) > prompt.rfind(t.end)}


def without(text: str, thought: Thought, begun: bool) -> str:
    """`text` without what is between the marks; a thought that never ends takes all that follows it.

    `begun`: the text starts inside a thought. An end without a beginning ends a thought that was begun unseen.
    """
    first = text.find(thought.begin)
    end = text.find(thought.end)
    if begun and end < 0:
        return ""
    if end >= 0 and (begun or first < 0 or end < first):
        text = text[end + len(thought.end) :]
    outside, rest = "", text
    while thought.begin in rest:
        before, _, rest = rest.partition(thought.begin)
        outside += before
        _, closed, rest = rest.partition(thought.end)
        if not closed:
            return outside
    return outside + rest
