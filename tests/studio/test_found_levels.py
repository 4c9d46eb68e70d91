"""Asked and obtained beside each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.studio.bars import bars
from flows.studio.found_levels import Found, find, said
from moslim_core.reward.scorer import RewardScorer
from tests.studio.made import SCHEMA, make_reward_model

MESSAGES = [{"role": "user", "content": "Rain?"}]


@pytest.fixture(scope="module")
def scorer(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> RewardScorer:
    return RewardScorer.load(make_reward_model(tiny_encoder, tmp_path_factory.mktemp("findings") / "reward"))


def test_a_preference_has_its_probabilities_and_the_rules_level(scorer: RewardScorer) -> None:
    found = {f.preference: f for f in find(MESSAGES, "It rains and snows here.", {"verbosity": 1}, SCHEMA, scorer)}
    assert list(found) == list(SCHEMA.names)
    for name, one in found.items():
        assert one.probabilities is not None and len(one.probabilities) == SCHEMA[name].k
        assert sum(one.probabilities) == pytest.approx(1, abs=1e-5)
        assert one.expected == pytest.approx(sum(n * p for n, p in enumerate(one.probabilities, 1)))
    # Five words, cut at 1 and 4.
    assert (found["verbosity"].asked, found["verbosity"].rule, found["verbosity"].obtained) == (1, 3, 3)
    assert (found["warmth"].asked, found["warmth"].rule) == (None, None)
    assert found["warmth"].obtained == round(found["warmth"].expected or 0, 1)


def test_the_reward_model_reads_the_conversation_and_not_what_was_asked_for(scorer: RewardScorer) -> None:
    one, other = (find(MESSAGES, "It rains.", targets, SCHEMA, scorer) for targets in ({"warmth": 1}, {"warmth": 2}))
    assert [f.probabilities for f in one] == [f.probabilities for f in other]
    longer = find([*MESSAGES, {"role": "assistant", "content": "Yes."}, *MESSAGES], "It rains.", {}, SCHEMA, scorer)
    assert [f.probabilities for f in longer] != [f.probabilities for f in one]


def test_without_a_reward_model_the_rules_alone_find_something() -> None:
    found = find(MESSAGES, "Yes.", {"warmth": 2}, SCHEMA, None)
    assert [f.obtained for f in found] == [1, None, None]
    assert said(found[0], SCHEMA["verbosity"]) == "verbosity: left open; rules find 1 · short."
    assert said(found[1], SCHEMA["warmth"]) == "warmth: asked for 2 · warm; nothing here measures it."


def test_bars_show_asked_and_obtained_and_say_it_to_who_hears_them() -> None:
    found = [
        Found(preference="verbosity", asked=1, probabilities=[0.25, 0.5, 0.25], expected=2.0, rule=2),
        Found(preference="warmth", asked=None, probabilities=[0.1, 0.9], expected=1.9),
    ]
    html = bars(found, SCHEMA)
    assert 'aria-label="verbosity: asked for 1 · short; rules find 2 · medium; the reward model expects 2.0 of 3."' in html
    assert '<span class="badge near">obtained 2 · medium</span>' in html
    # Asked for nothing, nothing is hit or missed.
    assert '<span class="badge unknown">obtained 1.9 · near warm</span>' in html
    assert html.count("▼") == 1 and html.count("●") == 1 and html.count("<i ") == 5
    assert 'class="wanted" style="--p:0.250"' in html
