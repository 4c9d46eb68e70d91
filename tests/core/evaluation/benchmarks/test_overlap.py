"""What was trained on, or nearly, is not asked."""

from __future__ import annotations

from moslim_core.data.rows import conversation
from moslim_core.evaluation.benchmarks.benchmark import Chat
from moslim_core.evaluation.benchmarks.overlap import untrained

LONG = "Please explain to a curious child why the sea looks blue on some days and grey or green on other days of the very same week"


def test_same_and_nearly_the_same_prompts_are_dropped_and_counted() -> None:
    items = [
        Chat("new", "a", ("How do I knit a hat?",)),
        Chat("same", "a", ("how do I  bake BREAD?", "And cake?")),
        Chat("near", "a", (LONG,)),
        Chat("later", "a", ("What floats?", "How do I bake bread?")),
    ]
    trained = [conversation(text, "here") for text in ("How do I bake bread?", f"{LONG}, please?", "How do I sew a hat?")]
    kept, dropped = untrained(items, trained, near=0.8)
    assert [item.id for item in kept] == ["new", "later"]
    assert dropped == {"prompt that also occurs in training": 1, "prompt nearly the same as one in training": 1}
    kept, dropped = untrained(items, trained, near=1)
    assert [item.id for item in kept] == ["new", "near", "later"]
    assert dropped == {"prompt that also occurs in training": 1}


def test_items_like_one_another_stay_where_none_was_trained_on() -> None:
    items = [Chat("one", "a", (LONG,)), Chat("two", "a", (f"{LONG}!",))]
    kept, dropped = untrained(items, [conversation("How do I bake bread?", "here")], near=0.8)
    assert (kept, dropped) == (items, {})
    assert untrained(items, [], near=0.8)[0] == items
