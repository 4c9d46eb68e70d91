"""How far an answer is about its question, as the packaged encoder sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from moslim_core.errors import UserError
from moslim_core.reward import topic as module
from moslim_core.reward.topic import Topic

QUESTION = "How do bees make honey?"
ABOUT = [
    "Bees collect nectar from flowers and turn it into honey in the hive.",
    "They gather nectar!",
    "Sweet friend, the bees make honey from flowers with love!",
]
ELSEWHERE = ["The stock market fell by two percent on Monday.", "You are a wonderful person, and I am so glad!", "A short sentence.", ""]


@pytest.fixture(scope="module")
def topic(tmp_path_factory: pytest.TempPathFactory) -> Topic:
    return Topic(tmp_path_factory.mktemp("cache"))


def test_what_is_about_the_question_is_told_from_what_is_not(topic: Topic) -> None:
    answers = [*ABOUT, *ELSEWHERE]
    assert topic.off([QUESTION] * len(answers), answers) == [False] * len(ABOUT) + [True] * len(ELSEWHERE)
    # The same answer to another question.
    assert topic.off(["What did the stock market do?"], [ELSEWHERE[0]]) == [False]


def test_answers_in_any_company_have_the_same_cosine(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    together = topic([QUESTION] * len(ABOUT), ABOUT)
    assert together == [topic([QUESTION], [answer])[0] for answer in ABOUT]
    monkeypatch.setattr(module, "BATCH", 2)
    assert topic([QUESTION] * len(ABOUT), ABOUT) == together
    assert topic([], []) == []
    assert topic([QUESTION], [QUESTION]) == [1.0]
    assert topic([QUESTION], [" ".join(ABOUT * 100)])[0] > module.LEAST, "only the beginning of a long one is read"


def test_an_encoder_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENCODER", str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="nothing"):
        Topic(tmp_path)
