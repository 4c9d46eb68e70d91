"""Questions with known answers, sixty in six groups, in this package: what does a policy still know that its starting model knew? (ours)

Told by rule: one of the accepted words stands in the answer. A longer answer has more room for it, and the rule does not understand a
"not": figures compare a policy with its starting model, and no model with a published one. An answer loops where it says the same four
words three times or more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import regex

from moslim_core.evaluation.benchmarks.benchmark import Benchmark, Chat, Judged, Meaning, Verdict, less, more
from moslim_core.policy.generation import Answer
from moslim_core.preferences.measures import word_count
from moslim_core.registry import benchmark

LOOP_WORDS = 4
LOOP_TIMES = 3


@dataclass(frozen=True)
class Question(Chat):
    accepted: tuple[str, ...]


@benchmark("known_answers")
class KnownAnswers(Benchmark[Question]):
    fluency = True
    measures = {
        "contains_answer": more("share of answers with the known answer in them"),
        "loops": less("share of answers that say the same four words three times"),
        "words": Meaning(about="words an answer"),
    }

    def load(self, folder: Path) -> list[Question]:
        """The packaged questions; nothing is read from `folder`."""
        lines = files(__package__).joinpath("known_answers.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        return [Question(row["question"], row["group"], (row["question"],), tuple(row["accepted"])) for row in rows]

    def judge(self, items: Sequence[Question], answers: Sequence[Sequence[Answer]]) -> Judged:
        """An empty answer is wrong; where the model had no room to answer, the verdicts are missing."""
        verdicts = []
        for item, given in zip(items, answers, strict=True):
            text = given[0].text if given else None
            told = None if text is None else (is_right(text, item.accepted), loops(text), word_count(text))
            for place, measure in enumerate(self.measures):
                verdicts.append(Verdict(item.id, item.group, measure, None if told is None else float(told[place])))
        return Judged(verdicts, {}, {})


def is_right(text: str, accepted: Sequence[str]) -> bool:
    """Whether one of the accepted words stands in the text as a whole word, whatever its case."""
    return any(regex.search(rf"(?i)\b{regex.escape(words)}\b", text) for words in accepted)


def loops(text: str) -> bool:
    """Whether an answer goes round in circles."""
    words = [f"<{word}>" for word in text.casefold().split()]
    whole = "".join(words)
    # Without overlaps.
    return any(whole.count("".join(words[n : n + LOOP_WORDS])) >= LOOP_TIMES for n in range(len(words) - LOOP_WORDS + 1))
