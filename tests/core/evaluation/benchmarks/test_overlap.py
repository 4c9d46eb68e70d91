"""What was trained on, or nearly, is not asked."""

from __future__ import annotations

from moslim_core.data.rows import conversation
from moslim_core.evaluation.benchmarks.benchmark import Chat
from moslim_core.evaluation.benchmarks.overlap import NEARLY, SAME, overlaps

LONG = "Please explain to a curious child why the sea looks blue on some days and grey or green on other days of the very same week"


def test_same_and_nearly_the_same_prompts_are_told() -> None:
    items = [
        Chat("new", "a", ("How do I knit a hat?",)),
        Chat("same", "a", ("how do I  bake BREAD?", "And cake?")),
        Chat("near", "a", (LONG,)),
        Chat("later", "a", ("What floats?", "How do I bake bread?")),
    ]
    trained = [conversation(text, "here") for text in ("How do I bake bread?", f"{LONG}, please?", "How do I sew a hat?")]
    assert overlaps(items, trained, near=0.8) == [None, SAME, NEARLY, None]
    assert overlaps(items, trained, near=1) == [None, SAME, None, None]


def test_items_like_one_another_stay_where_none_was_trained_on() -> None:
    items = [Chat("one", "a", (LONG,)), Chat("two", "a", (f"{LONG}!",))]
    assert overlaps(items, [conversation("How do I bake bread?", "here")], near=0.8) == [None, None] == overlaps(items, [], near=0.8)
