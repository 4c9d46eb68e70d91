"""Levels by rules: a measure of an answer (preferences/measures.py), cut by thresholds."""

from __future__ import annotations

from bisect import bisect_left

from moslim_core.preferences import PreferenceSchema, RuleAnnotator
from moslim_core.preferences.measures import matches
from moslim_core.registry import measure


def measured(text: str, annotator: RuleAnnotator) -> float:
    """What the rule measures, in its measure's unit."""
    return matches(annotator.pattern, text) if annotator.pattern is not None else measure[annotator.measure](text)


def annotate(text: str, annotator: RuleAnnotator) -> int:
    """Level 1..K: a measurement up to the first threshold is level 1 (level K if reversed)."""
    bin_ = bisect_left(annotator.thresholds, measured(text, annotator))
    return len(annotator.thresholds) + 1 - bin_ if annotator.reverse else bin_ + 1


def annotators_of(schema: PreferenceSchema) -> dict[str, RuleAnnotator]:
    """The rules of the preferences that have one, by preference name."""
    return {p.name: p.annotator for p in schema.preferences if p.annotator is not None}


def annotate_all(text: str, schema: PreferenceSchema) -> dict[str, int]:
    """Levels by every rule of the schema."""
    return {name: annotate(text, rule) for name, rule in annotators_of(schema).items()}
