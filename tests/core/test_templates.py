"""Chat templates: set once and for good, where a turn ends, and what of an answer was said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from moslim_core.errors import UserError
from moslim_core.models import load_chat_tokenizer
from moslim_core.models.reasoning import Thought, without
from moslim_core.models.templates import settle, thoughts, turn_end
from moslim_core.policy.reader import Reader
from tests.conftest import CHAT_TEMPLATE

THINK = Thought("<think>", "</think>")
HELLO = [{"role": "user", "content": "Hello"}]
REASONING = CHAT_TEMPLATE.replace(
    "assistant\n", "assistant\n{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
)


def tokenizer_with(template: Any, tiny_chat: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(tiny_chat)
    tokenizer.chat_template = template
    settle(tokenizer, "tiny")
    return tokenizer


def written(tokenizer: Any, **options: Any) -> str:
    return tokenizer.apply_chat_template(HELLO, tokenize=False, add_generation_prompt=True, **options)


def test_a_plain_template_stays_as_it_is(tiny_chat: Path) -> None:
    assert load_chat_tokenizer(str(tiny_chat), tiny_chat).chat_template == CHAT_TEMPLATE


def test_settling_changes_the_options_alone_and_only_once(tiny_chat: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_chat)
    tokenizer.chat_template = "\n\n" + REASONING
    off = written(tokenizer, enable_thinking=False)
    assert off != written(tokenizer)
    settle(tokenizer, "tiny")
    assert written(tokenizer) == written(tokenizer, enable_thinking=True) == off
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    settle(again, "tiny")
    assert again.chat_template == tokenizer.chat_template


@pytest.mark.parametrize(
    ("dated", "text"),
    [
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        ("{% if strftime_now is defined %}{{ strftime_now('%B %-d, %Y') }}{% else %}x{% endif %}", "July 26, 2024"),
        ("{% if not date_string is defined %}{% set date_string = strftime_now('%Y') %}{% endif %}{{ date_string }}", "26 Jul 2024"),
        ("{% macro today() %}{{ strftime_now('%A, %F') }}{% endmacro %}{{ today() }}", "Friday, 2024-07-26"),
    ],
)  # fmt: skip
def test_a_date_is_the_same_every_day(dated: str, text: str, tiny_chat: Path) -> None:
    assert written(tokenizer_with(dated + CHAT_TEMPLATE, tiny_chat)).startswith(text)


@pytest.mark.parametrize(
    ("after", "end"),
    [("<|im_end|>\n", "<|im_end|>"), (" <|pad|>", "<|pad|>"), ("<|im_end|><|pad|>", "<|im_end|>"), ("\n### Human:", None), ("", None)],
)
def test_a_turn_ends_where_the_template_ends_it(after: str, end: str | None, tiny_chat: Path) -> None:
    tokenizer = tokenizer_with("{% for m in messages %}" + "{{ m['content'] }}" + after + "{% endfor %}", tiny_chat)
    assert turn_end(tokenizer) == (None if end is None else tokenizer.convert_tokens_to_ids(end))


@pytest.mark.parametrize(
    ("text", "begun", "said"),
    [
        ("Hi.", False, "Hi."),
        ("<think>a</think>Hi.", False, "Hi."),
        ("<think>a", False, ""),
        ("Hi.<think>a", False, "Hi."),
        ("a</think>Hi.", True, "Hi."),
        ("a</think>Hi.", False, "Hi."),
        ("a", True, ""),
        ("<think>a</think><think>b</think>Hi.<think>c</think> Ho.", False, "Hi. Ho."),
        ("a <think> b</think>Hi.", True, "Hi."),
    ],
)
def test_thoughts_are_not_said(text: str, begun: bool, said: str) -> None:
    assert without(text, THINK, begun) == said


@given(st.lists(st.sampled_from(["<think>", "</think>", "word", " "])).map("".join), st.booleans())
def test_no_mark_is_left_and_nothing_is_made_up(text: str, begun: bool) -> None:
    left = without(text, THINK, begun)
    assert "<think>" not in left and len(left) <= len(text)
    assert without("Plain words.", THINK, False) == "Plain words."


def test_a_model_that_does_not_think_is_read_as_it_is(tiny_chat: Path) -> None:
    tokenizer = tokenizer_with(CHAT_TEMPLATE, tiny_chat)
    ids = tokenizer("a <think>b</think> c<|im_end|>")["input_ids"]
    assert Reader(tokenizer, [tokenizer.eos_token_id])(ids) == "a <think>b</think> c"


def test_the_scored_answer_has_no_thought(tiny_chat: Path) -> None:
    tokenizer = tokenizer_with(REASONING, tiny_chat)
    read = Reader(tokenizer, [tokenizer.eos_token_id])
    assert read(tokenizer("<think>warm warm</think>Rain.<|im_end|>")["input_ids"]) == "Rain."
    assert read(tokenizer("<think>warm warm")["input_ids"]) == ""


def opening(begin: str, tiny_chat: Path, body: str = CHAT_TEMPLATE) -> Any:
    """A tokenizer whose template puts `begin` before an answer that is asked for."""
    return tokenizer_with(body.replace("assistant\n", f"assistant\n{begin}"), tiny_chat)


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("<reasoning>\n", "</reasoning>"),
        ("[THINK]", "[/THINK]"),
        ("<scratchpad>\n", "</scratchpad>"),
        ("<inner_voice>", "</inner_voice>"),
        ("[REASON]\n", "[/REASON]"),
        ("\u25c1musing\u25b7", "\u25c1/musing\u25b7"),
        ("<|channel>thought\n", "<channel|>"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<plan>\nWell,", "</plan>"),
    ],
)
def test_what_a_template_opens_before_an_answer_is_a_thought(begin: str, end: str, tiny_chat: Path) -> None:
    tokenizer = opening(begin, tiny_chat)
    read = Reader(tokenizer, [tokenizer.eos_token_id])
    assert read(tokenizer(f"warm warm{end}Rain.<|im_end|>")["input_ids"]) == "Rain."
    assert read(tokenizer("warm warm")["input_ids"]) == ""


@pytest.mark.parametrize("plain", ["<answer>", "[OUTPUT]", "<plan></plan>", "<|channel>thought\n<channel|>", "</think>", "Sure:"])
def test_what_is_no_thought_is_read_as_it_is(plain: str, tiny_chat: Path) -> None:
    tokenizer = opening(plain, tiny_chat)
    assert Reader(tokenizer, [tokenizer.eos_token_id])(tokenizer("Rain.<|im_end|>")["input_ids"]) == "Rain."


@pytest.mark.parametrize("header", ["<bot>", "[/INST]", "<|start|>", "<persona> says"])
def test_what_stands_before_every_answer_is_no_thought(header: str, tiny_chat: Path) -> None:
    assert thoughts(tokenizer_with(CHAT_TEMPLATE.replace("<|im_start|>", f"<|im_start|>{header}"), tiny_chat)) == ()


@pytest.mark.parametrize("begin", ["<|muse|>", "Let me think step by step.\n", "### Reasoning:\n"])
def test_thoughts_without_an_end_are_refused(begin: str, tiny_chat: Path) -> None:
    with pytest.raises(UserError, match="thoughts, whose end can't be told"):
        thoughts(opening(begin, tiny_chat))


def test_what_a_template_leaves_out_of_earlier_answers_is_a_thought(tiny_chat: Path) -> None:
    """No word of its name says so, and nothing opens it."""
    dropping = CHAT_TEMPLATE.replace("m['content']", "m['content'].split('</musing>')[-1]")
    tokenizer = tokenizer_with("{# <musing> #}" + dropping, tiny_chat)
    assert thoughts(tokenizer) == (Thought("<musing>", "</musing>"),)
    assert thoughts(tokenizer_with("{# <musing> </musing> #}" + CHAT_TEMPLATE, tiny_chat)) == ()


def test_a_pair_of_added_tokens_that_names_thoughts_is_one(tiny_chat: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_chat)
    tokenizer.add_tokens(["<|scratch_start|>", "<|scratch_end|>", "<|tool_start|>", "<|tool_end|>"], special_tokens=True)
    settle(tokenizer, "tiny")
    assert thoughts(tokenizer) == (Thought("<|scratch_start|>", "<|scratch_end|>"),)
