"""Preferences: what can be requested, how it is said, which requests training sees."""

from moslim_core.preferences.imitations import INSTRUCTION_MARKS, neutralise
from moslim_core.preferences.prompting import (
    Message,
    Placement,
    chat_text,
    clauses,
    condition,
    longest_instruction,
    parse,
    render,
    require_placement,
)
from moslim_core.preferences.schema import Preference, PreferenceSchema, RuleAnnotator, Targets
from moslim_core.preferences.targets import TargetSampler, held_out_pairs, is_held_out
from moslim_core.preferences.tokens import answered_tokens, prompt_tokens, text_tokens

__all__ = [
    "INSTRUCTION_MARKS",
    "Message",
    "Placement",
    "Preference",
    "PreferenceSchema",
    "RuleAnnotator",
    "TargetSampler",
    "Targets",
    "answered_tokens",
    "chat_text",
    "clauses",
    "condition",
    "held_out_pairs",
    "is_held_out",
    "longest_instruction",
    "neutralise",
    "parse",
    "prompt_tokens",
    "render",
    "require_placement",
    "text_tokens",
]
