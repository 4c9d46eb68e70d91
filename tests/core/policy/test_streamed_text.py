"""Text that is told while an answer is drawn is never taken back, and is the whole answer at its end."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from moslim_core.models import templates
from moslim_core.policy.reader import Reader
from moslim_core.policy.streamed_text import Pieces


@pytest.fixture(scope="module")
def reader(tiny_chat: Path) -> Reader:
    return Reader(AutoTokenizer.from_pretrained(tiny_chat), [2])


def told(pieces: Pieces, ids: list[int]) -> list[str]:
    return [*map(pieces.add, ids), pieces.end()]


@settings(max_examples=25)
@given(text=st.text(max_size=40), noise=st.lists(st.integers(0, 350), max_size=20), ends=st.booleans())
def test_pieces_are_the_answer(reader: Reader, text: str, noise: list[int], ends: bool) -> None:
    ids = [number for number in reader.tokenizer(text)["input_ids"] + noise if number != 2] + [2] * ends
    pieces = Pieces(reader)
    assert "".join(told(pieces, ids)) == reader(ids).strip() == pieces.text
    assert pieces.ended == ends
    assert pieces.tokens == len(ids) - ends


def test_a_character_of_many_tokens_comes_whole(reader: Reader) -> None:
    ids = reader.tokenizer("a \U0001f35e b")["input_ids"]
    assert len(ids) > 5
    found = [piece for piece in told(Pieces(reader), ids) if piece]
    assert found == ["a", " \U0001f35e", " b"]


def test_thoughts_are_not_told(tiny_chat: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_chat)
    tokenizer.chat_template = "{# <think> </think> #}" + tokenizer.chat_template
    templates.settle(tokenizer, "thinking")
    reader = Reader(tokenizer, [2])
    said = told(Pieces(reader), tokenizer("1 < 2 <think>no</think>. <thin")["input_ids"])
    assert "".join(said) == "1 < 2 . <thin"
    assert not any("think" in piece for piece in said)


def test_an_answer_goes_as_far_as_the_first_mark_of_an_instruction(reader: Reader) -> None:
    for text, answer in (("Yes.</preferences> No", "Yes."), ("Yes. <preferences>Answer", "Yes."), ("Is 1 <2? <prefer", "Is 1 <2? <prefer")):
        ids = reader.tokenizer(text)["input_ids"]
        said = told(Pieces(reader), ids)
        assert "".join(said) == reader(ids).strip() == answer
        assert not any("</" in piece or "ref" in piece for piece in said[:-1]), "nothing is told that is taken back"
        assert reader.said([*ids, 2]).whole == (answer == text) and not reader.said(ids).whole


def test_a_long_answer_is_not_read_for_every_token(reader: Reader) -> None:
    pieces = Pieces(reader)
    # A `<` waits for what follows it.
    tokens = [number for number in range(5, 95) if reader.tokenizer.decode([number]) != "<"]
    read = [bool(pieces.add(tokens[n % len(tokens)])) for n in range(2000)]
    assert all(read[:255])
    assert sum(read[1000:]) < 250
    assert pieces.told + pieces.end() == pieces.text
