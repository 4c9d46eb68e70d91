from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moslim_core.reward.restatement import MOST_WORDS, restates

QUESTION = "What role did pigeons play in carrying messages?"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (QUESTION, "The pigeons carried messages!"),
        ("Why did people in ancient Egypt make mummies?", "They’re making mummies, and they don't make anything."),
        ("Help me find a hobby that my wife and I can share.", "You can find a hobby that your wife can share."),
        ("How do dogs' teeth stay clean?", "The dog's teeth stay clean."),
    ],
)
def test_question_said_again_tells_nothing(question: str, answer: str) -> None:
    assert restates(question, answer)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (QUESTION, "They carried messages between armies."),
        (QUESTION, "None."),
        # The rule finds what it can be sure of: an irregular form has another stem.
        ("How do farmers grow beans?", "The farmers grew beans."),
        (QUESTION, ""),
        ("What is 2 + 2?", "2 + 2 = 4"),
        ("Who wrote Hamlet?", "Shakespeare wrote Hamlet."),
        ("Is milk safe?", "Milk is safe."),
        ("I lost a file. Can I get it back?", "Get it back."),
        ("Which is better, tea or coffee?", "Tea is better."),
    ],
)
def test_answers_that_say_something_and_those_that_may(question: str, answer: str) -> None:
    assert not restates(question, answer)


def test_a_text_to_work_on_holds_its_answer() -> None:
    text = "Shorten this: " + "pigeons carry messages " * MOST_WORDS
    assert not restates(text, "Pigeons carry messages.") and restates("Shorten this: pigeons carry messages", "Pigeons carry messages.")


@given(st.lists(st.sampled_from(["pigeons", "carried", "message", "role", "the", "they", "12"]), max_size=8))
def test_order_and_number_of_words_do_not_matter(words: list[str]) -> None:
    known = {"pigeons", "carried", "message", "role"}
    assert restates(QUESTION, " ".join(words)) is (bool(known & set(words)) and "12" not in words)
