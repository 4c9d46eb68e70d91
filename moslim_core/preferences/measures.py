"""What rules measure in an answer, exactly, on maintained libraries: no model, no network, the same number every time. (ours)

One is a function from a text to a number under `@measure`.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import regex

from moslim_core.errors import UserError
from moslim_core.registry import measure

HEDGES = (
    "perhaps|maybe|possibly|probably|presumably|apparently|might|may|could|seems?|appears?|suggests?|likely|"
    "usually|generally|often|sometimes|roughly|about|around|somewhat|fairly|i think|i guess|i suppose|it depends"
)
FIRST_PERSON = "i|me|my|mine|myself|we|us|our|ours|ourselves"


@measure("word_count")
def word_count(text: str) -> float:
    """words, by white space"""
    return float(len(text.split()))


@measure("sentence_count")
def sentence_count(text: str) -> float:
    """sentences of more than two words (textstat)"""
    return float(_textstat().sentence_count(text)) if text.split() else 0.0


@measure("readability")
def readability(text: str) -> float:
    """Coleman-Liau school grade (textstat): letters and sentences per 100 words, so that long words and long sentences read as difficult"""
    return float(_textstat().coleman_liau_index(text)) if text.split() else 0.0


@measure("word_length")
def word_length(text: str) -> float:
    """letters per word (textstat), however many words there are"""
    return float(_textstat().avg_letter_per_word(text)) if text.split() else 0.0


@measure("warmth")
def warmth(text: str) -> float:
    """compound sentiment in [-1, 1] by the VADER lexicon (Hutto and Gilbert 2014)"""
    return float(_vader().polarity_scores(text)["compound"])


@measure("cheerfulness")
def cheerfulness(text: str) -> float:
    """VADER's sum of valences per square root of the words, and 1 more with an exclamation mark (ours)

    Closer than `warmth` to how warm short answers read, and not greater for longer ones (docs/sorted_answers.md).
    """
    words = len(text.split())
    if not words:
        return 0.0
    # Its compound is sum / sqrt(sum^2 + 15), to four digits.
    compound = max(-0.9999, min(0.9999, warmth(text)))
    return compound * math.sqrt(15 / (1 - compound**2) / words) + bool(exclamations(text))


@measure("questions")
def questions(text: str) -> float:
    """question marks, several in a row counting as one"""
    return _count(r"[?？]+", text)


@measure("exclamations")
def exclamations(text: str) -> float:
    """exclamation marks, several in a row counting as one"""
    return _count(r"[!！]+", text)


@measure("emojis")
def emojis(text: str) -> float:
    """pictures such as 🙂, not digits or signs that have an emoji form"""
    return _count(r"\p{Emoji_Presentation}|\p{Extended_Pictographic}\uFE0F", text)


@measure("first_person")
def first_person(text: str) -> float:
    """words such as I, my and we, per 100 words"""
    return _per_hundred(FIRST_PERSON, text)


@measure("hedging")
def hedging(text: str) -> float:
    """words such as perhaps, might and usually, per 100 words"""
    return _per_hundred(HEDGES, text)


@measure("contractions")
def contractions(text: str) -> float:
    """forms such as don't and it's, per 100 words: few in formal writing"""
    return _per_hundred(r"\p{L}+n['’]t|(?:\p{L}+)['’](?:re|ve|ll|d|m)|(?:it|that|there|he|she|what|who|let|here)['’]s", text)


@measure("list_items")
def list_items(text: str) -> float:
    """lines that begin with a bullet or a number"""
    return _count(r"(?m)^[ \t]*(?:[-*•]|\d+[.)])[ \t]+\S", text)


def matches(pattern: str, text: str) -> float:
    """How often a regular expression (of the library `regex`) matches, without overlaps. Raises UserError where that takes a second."""
    try:
        return float(sum(1 for _ in regex.finditer(pattern, text, timeout=1.0)))
    except TimeoutError as error:
        raise UserError(
            f"the pattern {pattern!r} takes over a second for an answer of {len(text):,} characters.\nWrite it without nested repetitions."
        ) from error


def _count(pattern: str, text: str) -> float:
    return float(len(regex.findall(pattern, text)))


def _per_hundred(words: str, text: str) -> float:
    count = len(text.split())
    return 100 * _count(rf"(?i)\b(?:{words})\b", text) / count if count else 0.0


@cache
def _textstat() -> Any:
    import textstat

    return textstat


@cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
