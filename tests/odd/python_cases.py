"""What a program passes to the library itself: halves of characters, sampling that is none, lists that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from moslim_core.policy.steerable import SteerablePolicy
from moslim_core.preferences import prompt_tokens, text_tokens
from moslim_core.reward.scorer import RewardScorer
from moslim_core.settings import Settings
from tests.core.preferences.tokenizers_made import KINDS
from tests.odd import tiny_models as tiny
from tests.odd.case import Case

HALF = "a smile \ud83d and no more"
NAN = float("nan")


@cache
def _policy() -> SteerablePolicy:
    return SteerablePolicy.from_pretrained(tiny._policy(), tiny.home(), "float32", "cpu")


@cache
def _scorer() -> RewardScorer:
    return RewardScorer.load(tiny._reward())


def chat(message: Any = "Rain?", **options: Any) -> Callable[[Path], object]:
    return lambda folder: _policy().chat(message, {"warmth": 3}, **options)


def score(questions: Any, answers: Any) -> Callable[[Path], object]:
    return lambda folder: _scorer()(questions, answers)


def tokens_of(said: str) -> Callable[[Path], object]:
    return lambda folder: prompt_tokens(KINDS["byte_level"](), [[{"role": "user", "content": said}]])


def no_rows(folder: Path) -> None:
    assert _scorer()([], [])["warmth"].shape == (0, 3)


def half_in_a_chat(folder: Path) -> None:
    assert isinstance(_policy().chat(HALF, max_new_tokens=2), str)


def greedy_twice(folder: Path) -> None:
    first, second = (_policy().chat("Rain?", temperature=zero, max_new_tokens=3, seed=seed) for seed, zero in enumerate((0, 0.0)))
    assert first == second


def settings_with(**values: Any) -> Callable[[Path], None]:
    """A program gets the library's usual error for settings that do not fit, before anything depends on them."""

    def act(folder: Path) -> None:
        with pytest.raises(ValidationError, match="half a character"):
            Settings.model_validate({"preferences": tiny.PREFERENCES, **values})

    return act


CASES = [
    *(Case(f"a temperature of {t!r}", chat(temperature=t), f"temperature={t!r} is none") for t in (-1, NAN, float("inf"), 1e-40, True)),
    *(
        Case(f"an answer of {n!r} tokens at most", chat(max_new_tokens=n), f"max_new_tokens={n!r} is no length")
        for n in (-1, 2.5, NAN, True)
    ),
    Case("greedy answers, whatever zero is written", greedy_twice),
    Case("half a character in a chat", half_in_a_chat),
    Case("half a character in a prompt", tokens_of(HALF), "half a character (a lone surrogate)"),
    Case("half a character in a text", lambda folder: text_tokens(KINDS["byte_level"](), ["good", HALF]), "half a character"),
    Case("half a character in an answer to score", score(["Q"], [HALF]), "half a character"),
    Case("half a character in a question to score", score([HALF], ["A"]), "half a character"),
    Case("no answers to score", no_rows),
    Case("one answer in place of several", score(["Q"], "A"), "the answers are one text"),
    Case("more answers than questions", score(["Q"], ["A", "B"]), "1 questions, but 2 answers"),
    *(Case(f"{other!r} as an answer", score(["Q"], [other]), "and no text") for other in (None, 3, b"A", ["A"])),
    Case("half a character in a model's name", settings_with(model={"base": HALF})),
    Case("half a character in a path", settings_with(data={"path": HALF})),
    Case("half a character in a name", settings_with(mapping={"weights": {HALF: 1}})),
    Case("half a character in a path that is one", settings_with(work_dir=Path("caf\udce9"))),
]
