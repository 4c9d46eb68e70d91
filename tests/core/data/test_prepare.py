"""The label stage: splits that share no prompt, a fair limit, early refusals."""

from __future__ import annotations

import itertools
import json
import random
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moslim_core.data.prepare import prepare
from moslim_core.data.rows import load_rows, prompt_key
from moslim_core.settings import Settings
from moslim_core.training.progress import Progress
from tests.core.data import hub
from tests.core.data.labelling import PREFERENCES, asked, disjoint, keys, rated, refused


@pytest.mark.parametrize("judge", ["annotators", "reward_model"])
def test_no_prompt_is_in_two_splits(stage: Any, judge: str) -> None:
    output, card = stage(rated(), evaluation={"judge": judge}, data={"validation_fraction": 0.2, "test_fraction": 0.2})
    splits = ["train", "validation", "test"] + (["judge"] if judge == "reward_model" else [])
    assert set(card["rows"]) == set(splits)
    assert sum(card["rows"].values()) == 360
    assert disjoint([keys(output, s) for s in splits])
    # 120 prompts: a fifth each for validation and test (24, standard deviation 4.4).
    assert all(11 < len(keys(output, s)) < 37 for s in ("validation", "test"))
    if judge == "reward_model":
        assert 0.3 < len(keys(output, "judge")) / len(keys(output, "judge") | keys(output, "train")) < 0.7
    assert asked(output, "train") == keys(output, "train")
    assert asked(output, "evaluation") <= keys(output, "test")


def test_split_of_a_prompt_depends_on_the_prompt_alone(stage: Any) -> None:
    few, _ = stage(rated(), "few")
    many, _ = stage([*reversed(rated()), *({**v, "prompt": "New " + v["prompt"]} for v in rated())], "many")
    for split in ("train", "validation", "test"):
        assert keys(few, split) == keys(many, split) & (keys(few, "train") | keys(few, "validation") | keys(few, "test"))


def test_limit_is_a_fair_draw_that_ignores_the_order(stage: Any) -> None:
    rows = rated()
    first, card = stage(rows, "first", data={"limit": 200})
    second, _ = stage(rows[::-1], "second", data={"limit": 200})
    larger, _ = stage(rows, "larger", data={"limit": 300})
    assert sum(card["rows"].values()) == 200

    def all_rows(output: Path) -> set[tuple[str, str]]:
        found = [r for s in ("train", "validation", "test") for r in load_rows(output / f"{s}.jsonl")]
        return {(prompt_key(r.prompt), r.response) for r in found}

    assert all_rows(first) == all_rows(second) < all_rows(larger)


def test_what_is_dropped_is_counted(stage: Any) -> None:
    rows = rated()
    bad = [
        {**rows[0], "response": " "},
        {**rows[1], "warmth": None, "length": None},
        {**rows[3], "prompt": rows[4]["prompt"]},  # the prompt in its other dress: the same row again
    ]
    output, card = stage([*rows, *bad])
    assert card["dropped"] == {"empty answer": 1, "no label": 1, "duplicate": 1}
    counts = Counter(r["warmth"] for r in rows)
    assert card["labels"]["warmth"] == {
        "labelled": 360 - counts[None],
        "levels": {str(v): counts[v] for v in (1, 2, 3)},
    }
    assert json.loads((output / "data_card.json").read_text()) == card


def test_head_without_any_label_is_refused_before_anything_is_written(stage: Any, tmp_path: Path) -> None:
    message = refused(lambda: stage([{**r, "length": None} for r in rated()]), tmp_path / "out")
    assert message.startswith(f"{tmp_path / 'out-data' / 'rows.jsonl'}: every label is null for preference 'length'.")
    assert "leave length out of the preferences" in message


@pytest.mark.parametrize("near", [0.8, 1.0])
def test_rows_without_any_label_are_refused(stage: Any, tmp_path: Path, near: float) -> None:
    rows = [{**r, "length": None, "warmth": None} for r in rated(5)]
    assert "every label is null for preference 'warmth'" in refused(lambda: stage(rows, data={"near_duplicates": near}), tmp_path / "out")


def test_split_without_a_label_is_refused(stage: Any, tmp_path: Path) -> None:
    other, last = ([{**r, "prompt": w + r["prompt"], **c} for r in rated(20)] for w, c in (("Other ", {}), ("Last ", {"length": None})))
    rows = {"train.jsonl": rated(), "val.jsonl": other, "test.jsonl": last}
    assert "no labelled row in the test split for preference 'length'" in refused(lambda: stage(rows), tmp_path / "out")


def test_missing_splits_of_a_folder_are_cut_from_train(stage: Any) -> None:
    output, card = stage({"train.jsonl": rated()})
    assert sum(card["rows"].values()) == 360
    assert disjoint([keys(output, s) for s in ("train", "validation", "test")])


def test_prompt_that_crosses_stated_splits_is_kept_out_of_one(stage: Any) -> None:
    rows = {"train.jsonl": rated(), "val.jsonl": rated(20, seed=1), "test.jsonl": rated(30, seed=2)}
    rows["val.jsonl"] += [{**r, "prompt": "Other " + r["prompt"]} for r in rated(20)]
    rows["test.jsonl"] += [{**r, "prompt": "New " + r["prompt"]} for r in rated(30)]
    output, card = stage({k: [{**r, "response": k + r["response"]} for r in v] for k, v in rows.items()})
    assert disjoint([keys(output, s) for s in ("train", "validation", "test")])
    # Test keeps its 30 prompts of 120; 20 of these are validation's too; what train has of them is dropped.
    assert card["dropped"]["prompt that also stands in another split"] == 3 * (30 + 20)
    assert card["rows"] == {"train": 270, "validation": 60, "test": 180}


QUESTION = "how did the old bakers of this small town by the river make their dark bread on a cold and rainy morning number"


def test_near_duplicates_do_not_cross_splits(stage: Any) -> None:
    # Five askings of each question, a word apart; a whole family would be a group, so the numbers are spelt out at length.
    families = [
        [f"{QUESTION} {' '.join(f'{n}{letter}' for letter in 'abcdefghijklmnop')} {QUESTION} {end}" for end in ("now", "now?", "please")]
        for n in range(60)
    ]
    rows = [{"prompt": p, "response": f"Answer to {p}.", "warmth": 1 + i % 3, "length": 1} for of in families for i, p in enumerate(of)]
    data = {"validation_fraction": 0.2, "test_fraction": 0.2, "near_duplicates": 0.9}
    output, card = stage(rows, data=data)
    again, _ = stage(rows[::-1], "again", data=data)
    splits = {split: keys(output, split) for split in ("train", "validation", "test")}
    for family in families:
        of = {prompt_key([{"role": "user", "content": p}]) for p in family}
        assert sum(bool(of & found) for found in splits.values()) == 1
    assert splits == {split: keys(again, split) for split in splits}
    assert card["prompt_groups"] == {
        "similarity": 0.9, "distinct": 180, "groups": 60, "nearly the same as another": 180, "largest group": 3,
    }  # fmt: skip
    exact, _ = stage(rows, "exact", data={**data, "near_duplicates": 1})
    where = {key: split for split in splits for key in keys(exact, split)}
    apart = [{where[prompt_key([{"role": "user", "content": p}])] for p in of} for of in families]
    assert any(len(of) > 1 for of in apart)


def test_quantiles_are_measured_on_the_training_ratings(stage: Any) -> None:
    rng = random.Random(0)
    rows = [{**r, "warmth": round(rng.random(), 4)} for r in rated(300)]
    output, card = stage(rows, data={"columns": {"labels": {"warmth": {"quantiles": True}}}})
    trained = keys(output, "train")
    training = sorted(r["warmth"] for r in rows if prompt_key([{"role": "user", "content": r["prompt"]}]) in trained)
    recorded = card["binning"]["warmth"]["jsonl"]
    edges = [round(len(training) * i / 3) for i in range(4)]
    assert recorded == {
        "column": "warmth", "quantiles": True, "thresholds": [training[edge - 1] for edge in edges[1:3]],
        "means": pytest.approx([sum(training[a:b]) / (b - a) for a, b in itertools.pairwise(edges)], abs=1e-6),
    }  # fmt: skip
    low, high = recorded["thresholds"]
    by_answer = {r["response"]: 1 + (r["warmth"] > low) + (r["warmth"] > high) for r in rows}
    for split in ("train", "validation", "test"):
        assert all(r.labels["warmth"] == by_answer[r.response] for r in load_rows(output / f"{split}.jsonl"))
    assert card["binning"]["length"] == {"jsonl": {"column": "length"}}


def test_too_few_ratings_for_the_quantiles_are_refused(stage: Any, tmp_path: Path) -> None:
    rows = [{**r, "warmth": 0.5} for r in rated()]
    message = refused(lambda: stage(rows, data={"columns": {"labels": {"warmth": {"quantiles": True}}}}), tmp_path / "out")
    assert "the training ratings of jsonl have fewer than 3 values" in message


def test_hub_sources_are_put_together(tiny_chat: Path, tmp_path: Path) -> None:
    five = ["worst", "bad", "middling", "good", "best"]
    preferences = [
        {"name": "helpfulness", "levels": five}, {"name": "honesty", "levels": five},
        {"name": "harmlessness", "levels": ["harmful", "harmless"], "floor": 2},
    ]  # fmt: skip
    settings = Settings.model_validate(
        {
            "preferences": preferences,
            "data": {
                "source": "ultrafeedback,ultrasafety,helpsteer2,pku-saferlhf",
                "path": hub.make(tmp_path / "data"),
                "test_fraction": 0.2,
            },
            "model": {"base": str(tiny_chat)},
        }
    )
    card = prepare(settings, tmp_path / "out", tmp_path / "cache", Progress())
    assert card["sources"] == {"ultrafeedback": 800, "ultrasafety": 400, "helpsteer2": 250, "pku-saferlhf": 500}
    assert card["rows_by_source"]["helpsteer2"]["validation"] == 50
    assert card["rows_by_source"]["pku-saferlhf"]["test"] == 100
    assert {name: card["labels"][name]["labelled"] for name in ("helpfulness", "honesty", "harmlessness")} == {
        "helpfulness": 800 + 250, "honesty": 800 - 4 * 67, "harmlessness": 400 + 500,
    }  # fmt: skip
    assert card["licences"]["pku-saferlhf"]["licence"] == "CC-BY-NC-4.0"
    assert card["binning"]["harmlessness"] == {
        "ultrasafety": {"column": "harmlessness", "levels": {"0": 1, "1": 2}},
        "pku-saferlhf": {"column": "safe", "levels": {"0": 1, "1": 2}},
    }
    assert "CC-BY-NC-4.0" in (tmp_path / "out" / "data_card.html").read_text()
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [
        "data_card.html", "data_card.json", "data_card.md", "prompts.evaluation.jsonl", "prompts.train.jsonl",
        "test.jsonl", "train.jsonl", "validation.jsonl",
    ]  # fmt: skip


def test_output_is_there_whole_or_not_at_all(stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        assert not (tmp_path / "out").exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("moslim_core.data.prepare.write_card", fails)
        stage(rated())
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()
    # What a killed run left beside it does no harm, and an older output gives way.
    (tmp_path / "out.partial" / "spool").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.jsonl").write_text("")
    output, _ = stage(rated())
    assert (output / "train.jsonl").exists() and not (output / "old.jsonl").exists() and not (tmp_path / "out.partial").exists()


def test_memory_does_not_grow_with_the_answers(stage: Any, tmp_path: Path) -> None:
    """30 MB of answers take a few MB: keys and signatures of 400 prompts, 16 bytes an answer, the rows of one batch."""

    def rows(prompts: int) -> Iterator[dict[str, Any]]:
        for n in range(prompts * 5):
            yield {"prompt": f"Prompt {n // 5}?", "response": f"{n} " + "x" * 15_000, "warmth": n % 101, "length": 1 + n % 2}

    data = {"columns": {"labels": {"warmth": {"quantiles": True}}}}
    stage(rows(60), "warm", data=data)  # what is imported and kept at the first run
    tracemalloc.start()
    try:
        _, card = stage(rows(400), data=data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(card["rows"].values()) == 2000
    assert (tmp_path / "out-data" / "rows.jsonl").stat().st_size > 30e6
    assert peak < 3e6


def test_missing_labels_are_filled_in_and_told_of(stage: Any) -> None:
    """By the rule of one preference; the other keeps its nulls, and given labels stay, right or wrong."""
    rows = [
        {
            "prompt": f"Question number {i} of its own?",
            "response": "one two" if i % 2 else "one",
            "length": (None, 2, 1)[i % 3],
            "warmth": 1,
        }
        for i in range(120)
    ] + [{"prompt": "And this one?", "response": "one two three", "length": None, "warmth": None}]
    preferences = [
        PREFERENCES[0],
        {"name": "length", "levels": ["short", "long"], "annotator": {"measure": "word_count", "thresholds": [1]}},
    ]
    folder, card = stage(rows, preferences=preferences, annotation={"fill": ["rules"]})
    kept = [row for split in ("train", "validation", "test") for row in load_rows(folder / f"{split}.jsonl")]
    assert len(kept) == 121, "a row without any label is one that annotators can help"
    assert all("length" in row.labels for row in kept)
    for row in kept:
        number = next((int(word) for word in row.prompt[0]["content"].split() if word.isdigit()), None)
        if number is not None and number % 3 == 1:
            assert row.labels["length"] == 2, "given"
    assert card["filled"] == [{"annotator": "rules", "preference": "length", "asked": 41, "filled": 41, "undecided": 0, "unparsable": 0}]
    (agreement,) = card["agreement"]
    assert (agreement["first"], agreement["second"], agreement["n"]) == ("given", "rules", 80)
    assert "Labels filled in" in (folder / "data_card.html").read_text()
