"""Preferences: what can be asked for, how it is said, which requests training sees."""

from moslim_core.preferences.prompting import (
    Message,
    Placement,
    condition,
    longest_instruction,
    neutralise,
    parse,
    render,
)
from moslim_core.preferences.schema import Preference, PreferenceSchema, RuleAnnotator, Targets
from moslim_core.preferences.targets import TargetSampler, held_out_pairs, is_held_out

__all__ = [
    "Message",
    "Placement",
    "Preference",
    "PreferenceSchema",
    "RuleAnnotator",
    "TargetSampler",
    "Targets",
    "condition",
    "held_out_pairs",
    "is_held_out",
    "longest_instruction",
    "neutralise",
    "parse",
    "render",
]
