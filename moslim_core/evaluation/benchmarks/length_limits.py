"""Length limits in plain words, of the kind of IFEval's (Zhou et al. 2023): exactly, at most, at least, between. (ours)

Every topic is asked for under every limit, without this project's instruction: does a policy that learnt levels of length still follow,
or follow better, what a user writes? Words are counted by white space, sentences by their ends, however short they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import regex

from moslim_core.evaluation.benchmarks.benchmark import Benchmark, Chat, Judged, Verdict, less, more
from moslim_core.policy.generation import Answer
from moslim_core.preferences.measures import word_count
from moslim_core.registry import benchmark

TOPICS = (
    "Why do people keep pets?",
    "What makes a good friend?",
    "How does rain form?",
    "Why is sleep important?",
    "What is a library for?",
    "How do you make tea?",
    "Why do leaves fall in autumn?",
    "What does a doctor do?",
)
# Points that end no sentence.
ABBREVIATIONS = regex.compile(r"(?i)\b(?:dr|mr|mrs|ms|st|vs|etc|e\.g|i\.e|u\.s)\.(?=\s+\S)")
SENTENCE_END = regex.compile(r"[.!?…]+[\"'”’)]*(?=\s|$)|\n\s*\n")


def sentence_count(text: str) -> float:
    """Sentences of a text, by the same rule as the measure of that name."""
    return float(sum(bool(regex.search(r"\w", part)) for part in SENTENCE_END.split(ABBREVIATIONS.sub("", text))))


LENGTHS = {"words": word_count, "sentences": sentence_count}


class Limit(NamedTuple):
    """An answer's length from `low` to `high`, both allowed; `high` None: no upper limit."""

    wording: str
    unit: str
    low: int
    high: int | None

    def excess(self, length: float) -> float:
        """How far a length is outside, as a share of the limit that it breaks; 0 inside."""
        if length < self.low:
            return (self.low - length) / self.low
        return (length - self.high) / self.high if self.high is not None and length > self.high else 0.0


LIMITS = (
    Limit("exactly 5 words", "words", 5, 5),
    Limit("exactly 15 words", "words", 15, 15),
    Limit("at most 10 words", "words", 1, 10),
    Limit("at most 25 words", "words", 1, 25),
    Limit("at least 20 words", "words", 20, None),
    Limit("between 10 and 20 words", "words", 10, 20),
    Limit("exactly one sentence", "sentences", 1, 1),
    Limit("exactly two sentences", "sentences", 2, 2),
    Limit("at most two sentences", "sentences", 1, 2),
    Limit("at least three sentences", "sentences", 3, None),
    Limit("between two and four sentences", "sentences", 2, 4),
)


@dataclass(frozen=True)
class Limited(Chat):
    limit: Limit


@benchmark("length_limits")
class LengthLimits(Benchmark[Limited]):
    measures = {
        "kept": more("share of answers within the limit"),
        "excess": less("how far answers are outside, as a share of the limit"),
    }

    def load(self, folder: Path) -> list[Limited]:
        """Every topic under every limit; nothing is read from `folder`."""
        return [
            Limited(f"{topic} {limit.wording}", limit.wording, (f"{topic} Answer in {limit.wording}.",), limit)
            for limit in LIMITS
            for topic in TOPICS
        ]

    def judge(self, items: Sequence[Limited], answers: Sequence[Sequence[Answer]]) -> Judged:
        """Where the model had no room to answer, the verdicts are missing."""
        verdicts = []
        for item, given in zip(items, answers, strict=True):
            excess = item.limit.excess(LENGTHS[item.limit.unit](given[0].text)) if given else None
            verdicts.append(Verdict(item.id, item.group, "kept", None if excess is None else float(excess == 0)))
            verdicts.append(Verdict(item.id, item.group, "excess", excess))
        return Judged(verdicts, {}, {})
