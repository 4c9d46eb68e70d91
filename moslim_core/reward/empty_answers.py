"""Answers that tell nothing, whatever the heads find in them. (ours)"""

from __future__ import annotations

from collections.abc import Sequence

from moslim_core.reward.restatement import restates
from moslim_core.reward.topic import Topic


def empty_answers(questions: Sequence[str], texts: Sequence[str], topic: Topic | None) -> dict[str, list[bool]]:
    """{reason: whether each of n answers tells nothing for it}: `restated`, it only says its question again, and, where `topic` is there,
    `off_topic`, it is not about its question."""
    found = {"restated": [restates(question, text) for question, text in zip(questions, texts, strict=True)]}
    return found | ({"off_topic": topic.off(questions, texts)} if topic else {})
