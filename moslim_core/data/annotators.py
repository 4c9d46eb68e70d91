"""Rules that measure an answer exactly, on kept libraries: no model, no network, the same number every time."""

from __future__ import annotations

from bisect import bisect_left
from functools import cache
from typing import Any

from moslim_core.preferences import PreferenceSchema, RuleAnnotator


def word_count(text: str) -> float:
    """Number of white-space separated words."""
    return float(len(text.split()))


def readability(text: str) -> float:
    """Coleman-Liau school grade (textstat): letters and sentences per 100 words, so long words read as difficult."""
    return float(_textstat().coleman_liau_index(text)) if text.split() else 0.0


def warmth(text: str) -> float:
    """Compound sentiment in [-1, 1] by the VADER lexicon (Hutto and Gilbert 2014)."""
    return float(_vader().polarity_scores(text)["compound"])


MEASURES = {"word_count": word_count, "readability": readability, "warmth": warmth}


@cache
def _textstat() -> Any:
    import textstat

    return textstat


@cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def annotate(text: str, annotator: RuleAnnotator) -> int:
    """Level 1..K: a measurement up to the first threshold is level 1 (level K if reversed)."""
    bin_ = bisect_left(annotator.thresholds, MEASURES[annotator.measure](text))
    return len(annotator.thresholds) + 1 - bin_ if annotator.reverse else bin_ + 1


def annotators_of(schema: PreferenceSchema) -> dict[str, RuleAnnotator]:
    """The rules of the preferences that have one, by preference name."""
    return {p.name: p.annotator for p in schema.preferences if p.annotator is not None}


def annotate_all(text: str, schema: PreferenceSchema) -> dict[str, int]:
    """Levels by every rule of the schema."""
    return {name: annotate(text, rule) for name, rule in annotators_of(schema).items()}
