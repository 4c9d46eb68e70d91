"""What the reward model and the rules find in an answer, beside what was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel

from moslim_core.data.annotators import annotate_all
from moslim_core.data.rows import plain_text
from moslim_core.preferences import Message, Preference, PreferenceSchema
from moslim_core.report.wording import number

if TYPE_CHECKING:
    from moslim_core.reward.scorer import RewardScorer


class Found(BaseModel):
    """Of one preference: the level asked for, the reward model's probability of each level and its expected level, the rule's level.

    What there is not is None: an open preference, no reward model, no rule.
    """

    preference: str
    asked: int | None
    probabilities: list[float] | None = None
    expected: float | None = None
    rule: int | None = None

    @property
    def obtained(self) -> float | None:
        """The rule's level where there is a rule, as it is exact; else the reward model's expected level, to a tenth."""
        return self.rule if self.rule is not None or self.expected is None else round(self.expected, 1)


def find(
    messages: Sequence[Message], answer: str, levels: Mapping[str, int], schema: PreferenceSchema, scorer: RewardScorer | None
) -> list[Found]:
    """What is found in an answer, a preference each. The reward model reads the plain conversation, without what was asked for."""
    rules = annotate_all(answer, schema)
    probabilities = scorer([plain_text(messages)], [answer]) if scorer is not None else {}
    findings = []
    for p in schema.preferences:
        shares = probabilities[p.name][0].tolist() if p.name in probabilities else None
        expected = sum(level * share for level, share in enumerate(shares, 1)) if shares else None
        findings.append(Found(preference=p.name, asked=levels.get(p.name), probabilities=shares, expected=expected, rule=rules.get(p.name)))
    return findings


def said(finding: Found, preference: Preference) -> str:
    """One sentence for who hears the page: 'verbosity: asked for 1 · short; rules find 2 · long; the reward model expects 1.8 of 3.'"""
    parts = ["left open" if finding.asked is None else f"asked for {finding.asked} · {preference.label(finding.asked)}"]
    if finding.rule is not None:
        parts.append(f"rules find {finding.rule} · {preference.label(finding.rule)}")
    if finding.expected is not None:
        parts.append(f"the reward model expects {number(finding.expected, 1)} of {preference.k}")
    if len(parts) == 1:
        parts.append("nothing here measures it")
    return f"{preference.name}: {'; '.join(parts)}."
