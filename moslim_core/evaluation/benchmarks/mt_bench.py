"""MT-Bench (Zheng et al. 2023): 80 questions of two turns in 8 categories, each answer graded by itself by a language model.

The second turn follows the model's own first answer. Grades go from 0 to 10 in our wording, so they are no figures of the MT-Bench
leaderboard. Nothing stands in for the language model: without one the benchmark is not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moslim_core.evaluation.benchmarks import grading
from moslim_core.evaluation.benchmarks.benchmark import NO_JUDGE, Benchmark, Chat, Judged, Verdict, more
from moslim_core.evaluation.benchmarks.sources import File, records
from moslim_core.judging.endpoint import Question
from moslim_core.policy.generation import Answer
from moslim_core.registry import benchmark

FASTCHAT = "raw.githubusercontent.com/lm-sys/FastChat/0e6d3e4beaab66f4d3f93db72541a4abab8af28d/fastchat/llm_judge/data/mt_bench"
QUESTIONS = File(
    "mt_bench/question.jsonl",
    "question_id, category, turns (two)",
    "github.com/lm-sys/FastChat (Apache-2.0)",
    f"https://{FASTCHAT}/question.jsonl",
    "119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7",
)
REFERENCES = File(
    "mt_bench/reference_answer_gpt-4.jsonl",
    "question_id, choices[0].turns (two)",
    QUESTIONS.origin,
    f"https://{FASTCHAT}/reference_answer/gpt-4.jsonl",
    "f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f",
)


@dataclass(frozen=True)
class MTQuestion(Chat):
    """`references`: a good answer to each turn; empty where there are none (all but mathematics, reasoning and coding)."""

    references: tuple[str, ...]


@benchmark("mt_bench")
class MTBench(Benchmark[MTQuestion]):
    judged_files = (QUESTIONS, REFERENCES)
    measures = {
        "grade": more("mean grade of both turns' answers, 0 to 10"),
        "grade_turn_1": more("mean grade of the first turn's answers, 0 to 10"),
        "grade_turn_2": more("mean grade of the second turn's answers, 0 to 10"),
    }

    def load(self, folder: Path) -> list[MTQuestion]:
        if self.endpoint is None:
            return []
        references = dict(records(folder, REFERENCES, lambda row: (row["question_id"], _two(row["choices"][0]["turns"]))))

        def made(row: dict[str, Any]) -> MTQuestion:
            number = row["question_id"]
            return MTQuestion(str(number), str(row["category"]), _two(row["turns"]), references.get(number, ()))

        return records(folder, QUESTIONS, made)

    def judge(self, items: Sequence[MTQuestion], answers: Sequence[Sequence[Answer]]) -> Judged:
        """A grade for each answer; one that was not given, because the model had no room for it, is missing."""
        if self.endpoint is None:
            return Judged([], dict.fromkeys(self.measures, NO_JUDGE), {})
        turns = [(item, turn, given) for item, given in zip(items, answers, strict=True) for turn in range(len(given))]
        grades = grading.grades(self.endpoint, [_question(*turn) for turn in turns])
        by_turn = {(item.id, turn): grade for (item, turn, _), grade in zip(turns, grades, strict=True)}
        verdicts = [
            Verdict(item.id, item.group, measure, by_turn.get((item.id, turn)))
            for item in items
            for turn in range(len(item.turns))
            for measure in ("grade", f"grade_turn_{turn + 1}")
        ]
        return Judged(verdicts, {}, {})


def _question(item: MTQuestion, turn: int, answers: Sequence[Answer]) -> Question:
    """The request for the grade of the answer to `turn`, from 0."""
    conversation = item.conversation([answer.text for answer in answers[:turn]]) or []
    references = item.references[: turn + 1]
    return grading.question(
        grading.TURN,
        grading.GRADE,
        conversation="\n".join(grading.tagged(message["role"], message["content"]) for message in conversation),
        references="\n".join(grading.tagged("reference", reference) for reference in references) or "none",
        answer=grading.tagged("answer", answers[turn].text),
    )


def _two(turns: Any) -> tuple[str, ...]:
    if not (isinstance(turns, list) and len(turns) == 2 and all(isinstance(turn, str) for turn in turns)):
        raise ValueError("turns are two texts")
    return tuple(turns)
