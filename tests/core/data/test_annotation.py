"""Missing labels come from the first who can tell, given ones stay, and agreement is what it says, on a fair sample."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from moslim_core.data import annotation
from moslim_core.data.annotation import GIVEN, Annotation, RewardModelAnnotator, Verdict, agreement
from moslim_core.data.rows import Row
from moslim_core.data.settings import AnnotationSettings
from moslim_core.errors import UserError
from moslim_core.judging.endpoint import Usage
from moslim_core.preferences import PreferenceSchema
from moslim_core.reward.model import create
from moslim_core.reward.scorer import RewardScorer
from moslim_core.settings import Settings
from tests.core.chat_server import Reply, Request, says, serving

PREFERENCES: list[dict[str, Any]] = [
    {"name": "warmth", "levels": ["cold", "neutral", "warm"]},
    {"name": "length", "levels": ["short", "long"], "annotator": {"measure": "word_count", "thresholds": [2]}},
]
SCHEMA = PreferenceSchema.model_validate(PREFERENCES)


def row(response: str = "So it is.", **labels: int) -> Row:
    return Row([{"role": "user", "content": "Rain?"}], response, labels, "made")


class Says:
    """An annotator that says, per answer, what it is told to: levels, None where it can't tell, and nothing for the rest."""

    def __init__(self, name: str, said: dict[str, Verdict], preferences: Sequence[str] = SCHEMA.names) -> None:
        self.name, self.said, self.preferences = name, said, frozenset(preferences)
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def verdicts(self, rows: Sequence[Row], wanted: Sequence[Sequence[str]]) -> list[Verdict]:
        self.asked += [(r.response, tuple(names)) for r, names in zip(rows, wanted, strict=True)]
        return [{n: v for n, v in self.said.get(r.response, {}).items() if n in names} for r, names in zip(rows, wanted, strict=True)]


def test_the_first_who_can_tell_fills_in_and_given_labels_stay() -> None:
    one = Says("one", {"a": {"warmth": 3, "length": 2}, "b": {"warmth": None, "length": 1}, "c": {"length": None}}, ["warmth", "length"])
    two = Says("two", {"a": {"warmth": 1}, "b": {"warmth": 2}, "c": {"warmth": None}}, ["warmth"])
    filling = Annotation([one, two], SCHEMA, agreement_sample=0)
    rows = [row("a", warmth=2), row("b"), row("c"), row("d", warmth=1, length=2), row(" ")]
    found = list(filling.fill(rows))
    assert [r.labels for r in found] == [{"warmth": 2, "length": 2}, {"length": 1, "warmth": 2}, {}, {"warmth": 1, "length": 2}, {}]
    assert [r._replace(labels={}) for r in found] == [r._replace(labels={}) for r in rows]
    assert rows[0].labels == {"warmth": 2}
    # Nobody is asked for what is known, nor about an empty answer.
    assert one.asked == [("a", ("length",)), ("b", ("warmth", "length")), ("c", ("warmth", "length"))]
    assert two.asked == [("b", ("warmth",)), ("c", ("warmth",))]
    assert [tuple(f.model_dump().values()) for f in filling.record().filled] == [
        ("one", "warmth", 2, 0, 1, 1),
        ("one", "length", 3, 2, 1, 0),
        ("two", "warmth", 2, 1, 1, 0),
    ]
    assert filling.record().agreement == []


def test_rows_pass_by_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation, "BATCH", 4)
    taken: list[int] = []

    def endless() -> Iterator[Row]:
        for number in range(10**9):
            taken.append(number)
            yield row(f"answer {number}")

    filling = Annotation([Says("one", {})], SCHEMA, agreement_sample=3)
    filled = filling.fill(endless())
    assert [next(filled).response for _ in range(9)] == [f"answer {n}" for n in range(9)]
    assert len(taken) == 12


def test_rows_can_be_filled_beside_what_belongs_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation, "BATCH", 4)
    placed = iter([("train", row(f"answer {n}", warmth=1), n) for n in range(10)])
    filling = Annotation([Says("one", {f"answer {n}": {"length": 1, "warmth": 1} for n in range(10)})], SCHEMA, agreement_sample=10)
    placed, again = itertools.tee(placed)
    filled = filling.fill(r for _, r, _ in again)
    found = [(split, r, place) for (split, _, place), r in zip(placed, filled, strict=True)]
    assert found == [("train", row(f"answer {n}", warmth=1, length=1), n) for n in range(10)]
    # The strict zip looks for the end of `filled`, where the annotators are compared.
    assert [a.n for a in filling.record().agreement] == [10]


def test_nobody_to_ask_changes_nothing() -> None:
    filling = Annotation([], SCHEMA, agreement_sample=10)
    rows = iter([row("a", warmth=2), row("b")])
    filled = filling.fill(rows)
    assert next(filled) == row("a", warmth=2)
    assert next(rows) == row("b")  # nor does it hold rows back
    assert list(filled) == []
    assert filling.record().model_dump() == {"filled": [], "agreement": [], "usage": None}


def test_agreement_is_exact_share_and_quadratic_weighted_kappa() -> None:
    pairs = np.array([(1, 1), (1, 2), (2, 2), (3, 3), (3, 1), (2, 3)])
    # Observed: (0 + 1 + 0 + 0 + 4 + 1) / 6 = 1. By chance: both sides have each level twice, so the mean of (i - j)^2 is 4 / 3.
    found = agreement("warmth", "one", "two", pairs)
    assert (found.n, found.exact, found.kappa) == (6, 0.5, pytest.approx(1 - 1 / (4 / 3)))
    assert agreement("warmth", "one", "two", np.array([(2, 2), (2, 2)])).kappa is None
    assert agreement("warmth", "one", "two", np.array([(1, 3), (1, 3)])).kappa == 0


def test_agreement_is_measured_where_two_say_something() -> None:
    one = Says("one", {"a": {"warmth": 3, "length": 2}, "b": {"warmth": 1, "length": 1}, "c": {"warmth": 2}})
    two = Says("two", {"a": {"length": 2}, "b": {"length": 2}, "c": {"length": None}}, ["length"])
    filling = Annotation([one, two], SCHEMA, agreement_sample=10)
    assert [r.labels for r in filling.fill([row("a", warmth=3), row("b", warmth=2), row("c", length=1)])] == [
        {"warmth": 3, "length": 2},
        {"warmth": 2, "length": 1},
        {"length": 1, "warmth": 2},
    ]
    assert [(a.preference, a.first, a.second, a.n, a.exact) for a in filling.record().agreement] == [
        ("warmth", GIVEN, "one", 2, 0.5),
        ("length", "one", "two", 2, 0.5),
    ]
    # What only one of them could say is not asked again for the comparison.
    assert [asked for asked in one.asked if asked[0] == "c"] == [("c", ("warmth",)), ("c", ("length",))]
    assert [f.asked for f in filling.record().filled] == [1, 2, 0]


def test_sample_is_fair_and_ignores_the_order() -> None:
    rows = [row(f"answer {n}", **({"warmth": 1 + n % 3} if n % 2 else {})) for n in range(400)]

    def compared(given: Sequence[Row]) -> list[str]:
        one = Says("one", {r.response: {"warmth": 2} for r in rows}, ["warmth"])
        filling = Annotation([one], SCHEMA, agreement_sample=50)
        assert len(list(filling.fill(given))) == 400
        assert [(a.first, a.second, a.n) for a in filling.record().agreement] == [(GIVEN, "one", 50)]
        assert len(one.asked) == 200 + 50
        return [response for response, _ in one.asked[-50:]]

    chosen = compared(rows)
    assert chosen == compared(random.Random(0).sample(rows, 400))
    numbers = [int(text.split()[1]) for text in chosen]
    assert all(n % 2 for n in numbers)
    # Of 25 each, by the binomial's standard deviation of 3.5.
    assert 12 < sum(n < 200 for n in numbers) < 38


def test_rules_fill_in_what_they_measure() -> None:
    settings = Settings.model_validate({"preferences": PREFERENCES, "annotation": {"fill": ["rules"]}})
    filling = Annotation.of(settings.annotation, settings.preferences, "cpu", Path("/nowhere"))
    assert [r.labels for r in filling.fill([row("one two three"), row("one", warmth=1), row("one two three", length=1)])] == [
        {"length": 2},
        {"warmth": 1, "length": 1},
        {"length": 1},
    ]
    found = filling.record()
    assert [(a.preference, a.first, a.second, a.n, a.exact) for a in found.agreement] == [("length", GIVEN, "rules", 1, 0)]
    assert found.usage is None


def test_reward_model_says_its_most_probable_level_if_that_is_probable_enough(tiny_encoder: Path) -> None:
    scorer = RewardScorer(*create(str(tiny_encoder), SCHEMA, None, 64))
    rows = [row(" ".join(["rain", "good", "bread"][: 1 + n % 3] * (n + 1))) for n in range(12)]
    probabilities = scorer(["Rain?"] * 12, [r.response for r in rows])["warmth"]
    least = float(np.median(probabilities.max(axis=1)))
    levels = [int(p.argmax()) + 1 if p.max() >= least else None for p in probabilities]
    assert 0 < levels.count(None) < 12
    asked = PreferenceSchema.model_validate([PREFERENCES[0], {"name": "tone", "levels": ["dry", "wry"]}])
    filling = Annotation([RewardModelAnnotator(scorer, asked, least)], asked, agreement_sample=0)
    assert [r.labels.get("warmth") for r in filling.fill(rows)] == levels
    assert [(f.preference, f.asked, f.filled) for f in filling.record().filled] == [("warmth", 12, 12 - levels.count(None))]


def test_reward_model_of_other_levels_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    model, tokenizer = create(str(tiny_encoder), SCHEMA, None, 64)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    other = {"preferences": [{"name": "warmth", "levels": ["cold", "warm"]}], "model": {"device": "cpu"}}
    settings = Settings.model_validate({**other, "annotation": {"fill": ["reward_model"], "reward_model": str(tmp_path)}})
    with pytest.raises(UserError, match=r"annotation.reward_model has 3 levels of warmth, the preferences have 2\.\nGive a reward"):
        Annotation.of(settings.annotation, settings.preferences, "cpu", tmp_path / "kept")
    same = Settings.model_validate({**settings.dump(), "preferences": PREFERENCES})
    assert Annotation.of(same.annotation, same.preferences, "cpu", tmp_path / "kept").annotators[0].preferences == {"warmth", "length"}


def judge(request: Request) -> Reply:
    """Warmth by the number in the answer; it is no good at lengths, and its tongue slips at the answer 5."""
    number = int(request.asked.split("<answer>\nanswer ")[1].split()[0])
    wanted = request.body["response_format"]["json_schema"]["schema"]["properties"]
    levels = {"warmth": 1 + number % 3, "length": None}
    return says("warmth is 9" if number == 5 else {name: levels[name] for name in wanted}, tokens=(50, 5))


def test_language_model_fills_in_and_what_it_said_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(annotation, "BATCH", 4)
    rows = [row(f"answer {n} is this", **({"warmth": 3} if n % 4 == 0 else {})) for n in range(10)]
    with serving(judge) as server:
        asked = {"base_url": server.url, "model": "m", "input_price": 1, "output_price": 2}
        settings = Settings.model_validate({"preferences": PREFERENCES, "annotation": {"fill": ["judge", "rules"], "judge": asked}})
        first = Annotation.of(settings.annotation, settings.preferences, "cpu", tmp_path / "kept.sqlite")
        found = list(first.fill(rows))
        calls = len(server.requests)
        second = Annotation.of(settings.annotation, settings.preferences, "cpu", tmp_path / "kept.sqlite")
        assert list(second.fill(rows)) == found
        assert len(server.requests) == calls
    for number, filled in enumerate(found):
        warmth = {} if number == 5 else {"warmth": 3 if number % 4 == 0 else 1 + number % 3}
        assert filled.labels == {**warmth, "length": 2}
    record = first.record()
    assert {(f.annotator, f.preference): (f.asked, f.filled, f.undecided, f.unparsable) for f in record.filled} == {
        ("judge", "warmth"): (7, 6, 0, 1),
        ("judge", "length"): (10, 0, 9, 1),
        ("rules", "length"): (10, 10, 0, 0),
    }
    # Rows 0, 4 and 8 have a given warmth of 3, of which the judge says 1, 2 and 3.
    assert [(a.preference, a.first, a.second, a.n, a.exact) for a in record.agreement] == [
        ("warmth", GIVEN, "judge", 3, pytest.approx(1 / 3))
    ]
    assert record.usage is not None
    assert record.usage.cost == pytest.approx(calls * (50 + 2 * 5) / 1e6)
    assert (record.usage.calls, record.usage.unparsable) == (calls, 2)
    usage = second.record().usage
    assert usage == Usage(cached=calls, unparsable=2)
    assert second.record().model_copy(update={"usage": None}) == record.model_copy(update={"usage": None})
    assert json.loads(record.model_dump_json())["agreement"][0]["first"] == GIVEN


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ({"fill": ["rules", "rules"]}, "fill names an annotator twice"),
        ({"fill": ["judge"]}, "fill names judge: give annotation.judge.model too"),
        ({"fill": ["reward_model"]}, "fill names reward_model: give annotation.reward_model too"),
        ({"fill": ["oracle"]}, "Input should be"),
    ],
)
def test_settings_that_can_not_work_are_refused(bad: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        AnnotationSettings.model_validate(bad)
