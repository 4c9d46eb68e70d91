"""Drift: the same rows have none, moved labels and longer prompts are told."""

from __future__ import annotations

from math import log

import pytest

from moslim_core.data.drift import drifts, stability_index


def card(levels: dict[str, int], words: tuple[float, float, float] = (4, 8, 12)) -> dict:
    quartiles = dict(zip(("25", "50", "75"), words, strict=True))
    return {"labels": {"length": {"labelled": sum(levels.values()), "levels": levels}}, "prompt_words": quartiles}


def test_stability_index_is_that_of_the_shares() -> None:
    assert stability_index({"1": 50, "2": 50}, {"1": 500, "2": 500}) == pytest.approx(0, abs=1e-12)
    expected = (0.8 - 0.5) * log(0.8 / 0.5) + (0.2 - 0.5) * log(0.2 / 0.5)
    assert stability_index({"1": 50000, "2": 50000}, {"1": 80000, "2": 20000}) == pytest.approx(expected, abs=1e-3)
    assert stability_index({"1": 10}, {"2": 10}) > 1


def test_what_moved_is_told_and_what_did_not_is_not() -> None:
    old = card({"1": 50, "2": 50})
    assert [d.drifted for d in drifts(old, card({"1": 45, "2": 55}, (5, 9, 14)))] == [False, False]
    assert [d.drifted for d in drifts(old, card({"1": 10, "2": 90}))] == [True, False]
    labels, prompts = drifts(old, card({"1": 50, "2": 50}, (10, 20, 30)))
    assert prompts.drifted and not labels.drifted and "20" in str(prompts)


def test_a_preference_that_is_new_has_nothing_to_drift_from() -> None:
    new = card({"1": 50, "2": 50})
    new["labels"]["mood"] = {"labelled": 1, "levels": {"1": 1}}
    assert [d.what.split(":")[0] for d in drifts(card({"1": 50, "2": 50}), new)] == ["labels of length", "prompts"]
