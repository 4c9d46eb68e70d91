"""The benchmarks that come with the package: what is right, what loops, and what keeps a limit of length."""

from __future__ import annotations

from pathlib import Path

import pytest

from moslim_core.evaluation.benchmarks.benchmark import evaluate
from moslim_core.evaluation.benchmarks.known_answers import KnownAnswers, is_right, loops
from moslim_core.evaluation.benchmarks.length_limits import LIMITS, TOPICS, LengthLimits
from moslim_core.policy.generation import Answer
from tests.core.evaluation.benchmarks.made_files import said


def test_every_question_stands_once_and_its_answer_is_not_in_it() -> None:
    questions = KnownAnswers(None).load(Path("nowhere"))
    assert len({q.id for q in questions}) == len(questions) == 60
    assert all(sum(q.group == group for q in questions) == 10 for group in {q.group for q in questions})
    assert not [q.id for q in questions if is_right(q.turns[0], q.accepted)]


def test_known_answers_are_told_by_whole_words_in_any_case() -> None:
    assert is_right("It's PARIS, of course.", ["Paris"]) and is_right("In South America.", ["South America"])
    assert not is_right("Parisians live there.", ["Paris"]) and not is_right("", ["Paris"])
    assert is_right("There are 7.", ["7", "seven"]) and not is_right("There are 70.", ["7", "seven"])


def test_an_answer_loops_where_four_words_come_three_times() -> None:
    assert loops("I like the rain. I like the rain. I like the rain.")
    assert not loops("I like the rain. I like the rain.") and not loops("no no no no no no")
    assert not loops("")


def test_known_answers_sum_up_by_group_and_miss_what_was_not_answered() -> None:
    benchmark = KnownAnswers(None)
    items = [q for q in benchmark.load(Path("nowhere")) if q.group == "numbers"][:4]
    answers = [said("Seven."), said("No idea."), said("Twenty-four hours."), []]
    result = evaluate(benchmark, items, answers, 100, 0)
    right = result.measures["contains_answer"]
    assert right.overall.mean.value == pytest.approx(2 / 3) and right.overall.missing == 1 and right.groups["numbers"].judged == 3
    assert result.measures["words"].overall.mean.value == pytest.approx((1 + 2 + 2) / 3)


def test_every_topic_is_asked_under_every_limit() -> None:
    items = LengthLimits(None).load(Path("nowhere"))
    assert len({item.id for item in items}) == len(items) == len(LIMITS) * len(TOPICS)
    assert items[0].conversation([]) == [{"role": "user", "content": "Why do people keep pets? Answer in exactly 5 words."}]


@pytest.mark.parametrize(
    ("wording", "answer", "excess"),
    [
        ("exactly 5 words", "One two three four five.", 0.0),
        ("exactly 5 words", "One two three four five six.", 0.2),
        ("at most 10 words", "Short.", 0.0),
        ("at most 10 words", "", 1.0),
        ("at least 20 words", "One two three four five.", 0.75),
        ("between 10 and 20 words", "word " * 30, 0.5),
        ("exactly two sentences", "It rains all day. It snows at night.", 0.0),
        ("at least three sentences", "It rains all day. It snows at night.", 1 / 3),
        ("exactly two sentences", "Dogs bark. Cats meow.", 0.0),
        ("exactly one sentence", "Dr. Smith has 3.5 dogs, e.g. a poodle", 0.0),
        ("exactly two sentences", 'He said "Stop!" Then he left...', 0.0),
        ("exactly one sentence", "...", 1.0),
    ],
)
def test_how_far_an_answer_is_outside_its_limit(wording: str, answer: str, excess: float) -> None:
    benchmark = LengthLimits(None)
    item = next(item for item in benchmark.load(Path("nowhere")) if item.group == wording)
    judged = {v.measure: v.value for v in benchmark.judge([item], [[Answer(answer, 1, truncated=False)]]).verdicts}
    assert judged == {"kept": float(excess == 0), "excess": pytest.approx(excess)}
