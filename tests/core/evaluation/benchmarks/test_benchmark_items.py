"""Items are asked turn by turn, limited evenly, and summed up with what is missing beside what is judged."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from moslim_core.evaluation.benchmarks.benchmark import Chat, Judged, Meaning, Verdict, ask, evaluate, finished, limited, more
from moslim_core.policy.generation import Answer
from moslim_core.preferences import Message
from moslim_core.registry import benchmark
from tests.core.evaluation.benchmarks.made_files import said


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def test_names_are_those_of_the_suite() -> None:
    assert set(benchmark.own) == {"mt_bench", "halueval2", "hackaprompt", "xstest", "known_answers", "length_limits"}
    for name in benchmark.own:
        assert benchmark[name](None).name == name


def test_a_turn_follows_the_models_own_replies() -> None:
    items = [Chat("one", "a", ("Rain?",)), Chat("two", "a", ("Snow?", "And hail?"))]
    rounds: list[list[list[Message]]] = []

    def respond(conversations: list[list[Message]]) -> list[Answer]:
        rounds.append(conversations)
        return [Answer(f"Re: {c[-1]['content']}", 2, truncated=False) for c in conversations]

    answers = ask(items, respond)
    second = [user("Snow?"), {"role": "assistant", "content": "Re: Snow?"}, user("And hail?")]
    assert rounds == [[[user("Rain?")], [user("Snow?")]], [second]]
    assert [[a.text for a in of_item] for of_item in answers] == [["Re: Rain?"], ["Re: Snow?", "Re: And hail?"]]
    assert all(finished(item, of_item) for item, of_item in zip(items, answers, strict=True))


def test_an_item_ends_where_the_model_has_no_room() -> None:
    items = [Chat("one", "a", ("Short?", "And?")), Chat("two", "a", ("Much too long?", "And?")), Chat("three", "a", ("Short?", "Much"))]
    answers = ask(items, lambda cs: [None if "Much" in c[-1]["content"] else said("Yes.")[0] for c in cs])
    assert [len(of_item) for of_item in answers] == [2, 0, 1]
    assert [finished(item, of_item) for item, of_item in zip(items, answers, strict=True)] == [True, False, False]


def test_limit_is_shared_out_evenly_and_chosen_by_hash() -> None:
    items = [Chat(f"{group}{n}", group, ("?",)) for group, count in (("a", 50), ("b", 3), ("c", 20)) for n in range(count)]
    kept = limited(items, 15)
    assert [sum(item.group == group for item in kept) for group in "abc"] == [6, 3, 6]
    assert kept == [item for item in items if item in kept]
    assert {i.id for i in kept} == {i.id for i in limited(items[::-1], 15)}
    assert set(kept) < set(limited(items, 16))
    assert {item.id for item in kept if item.group == "a"} != {f"a{n}" for n in range(6)}
    assert limited(items, None) == limited(items, 1000) == items


class Fixed:
    """A benchmark whose verdicts are given."""

    name = "fixed"
    measures = {"good": more("share of good answers"), "grade": Meaning(about="mean grade")}
    files = ()

    def __init__(self, verdicts: Sequence[Verdict]) -> None:
        self.verdicts = list(verdicts)

    def judge(self, items: Sequence[Chat], answers: Sequence[Sequence[Answer]]) -> Judged:
        return Judged(self.verdicts, {"grade": "nobody can tell"}, {"odd ones": 3})

    def load(self, folder: object) -> list[Chat]:
        return []


def test_sums_up_by_group_with_bounds_over_items_and_what_is_missing() -> None:
    items = [Chat(str(n), "ab"[n % 2], ("?",)) for n in range(20)]
    values = {n: None if n == 4 else float(n % 2) for n in range(20)}
    verdicts = [Verdict(i.id, i.group, "good", values[n]) for n, i in enumerate(items)]
    answers = [[Answer("Yes.", 1, truncated=n < 5)] for n in range(20)]
    found = evaluate(Fixed(verdicts), items, answers, bootstrap=200, seed=0)
    assert list(found.measures) == ["good"]
    good = found.measures["good"]
    assert good.meaning == more("share of good answers")
    assert (good.overall.judged, good.overall.missing) == (19, 1)
    assert good.overall.mean.value == pytest.approx(10 / 19)
    assert good.overall.mean.low is not None and good.overall.mean.high is not None
    assert 0.2 < good.overall.mean.low < 10 / 19 < good.overall.mean.high < 0.8
    assert {g: (s.mean.value, s.judged, s.missing) for g, s in good.groups.items()} == {"a": (0.0, 9, 1), "b": (1.0, 10, 0)}
    assert (found.items, found.truncated, found.not_run, found.notes) == (20, 0.25, {"grade": "nobody can tell"}, {"odd ones": 3})
    assert found == evaluate(Fixed(verdicts), items, answers, bootstrap=200, seed=0)


def test_verdicts_of_one_item_are_no_independent_ones() -> None:
    once = [Verdict(str(n), "a", "good", float(n % 2)) for n in range(20)]
    items = [Chat(str(n), "a", ("?",)) for n in range(20)]
    one, twice = (evaluate(Fixed(v), items, [[] for _ in items], bootstrap=500, seed=0).measures["good"].overall for v in (once, once * 2))
    assert twice.judged == 2 * one.judged
    assert twice.mean == one.mean


def test_what_nobody_could_judge_has_no_figure() -> None:
    found = evaluate(Fixed([Verdict("1", "a", "good", None)]), [Chat("1", "a", ("?",))], [[]], bootstrap=100, seed=0)
    overall = found.measures["good"].overall
    assert (overall.mean.value, overall.judged, overall.missing) == (None, 0, 1)
    assert found.truncated == 0.0
