"""Preferences: what can be asked for, how it is said, which requests training sees."""

from moslim_core.preferences.prompting import (
    Message,
    Placement,
    chat_text,
    condition,
    longest_instruction,
    neutralise,
    parse,
    render,
    require_placement,
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
    "chat_text",
    "condition",
    "held_out_pairs",
    "is_held_out",
    "longest_instruction",
    "neutralise",
    "parse",
    "render",
    "require_placement",
]
