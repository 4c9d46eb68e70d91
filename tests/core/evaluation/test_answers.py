"""What is asked, and that every system is asked the same; what judges do with what they can't tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from moslim_core import models
from moslim_core.evaluation.answers import answer, requests
from moslim_core.evaluation.judges import AnnotatorJudge, RewardModelJudge
from moslim_core.evaluation.system import System
from moslim_core.policy.generation import Sampling
from moslim_core.preferences import PreferenceSchema, Targets, is_held_out
from moslim_core.reward.model import create
from moslim_core.reward.scorer import RewardScorer
from moslim_core.training.progress import Progress

SCHEMA = PreferenceSchema.model_validate(
    [
        {"name": "length", "levels": ["short", "long"], "annotator": {"measure": "word_count", "thresholds": [2]}},
        {"name": "warmth", "levels": ["cold", "neutral", "warm"]},
        {"name": "harm", "levels": ["harmful", "harmless"], "floor": 2},
    ]
)


def test_every_level_alone_then_held_out_pairs_beside_seen_ones() -> None:
    held_out = [Targets({"length": 1, "warmth": 3}), Targets({"length": 2, "warmth": 1})]
    asked = requests(SCHEMA, held_out)
    alone = [{"length": 1}, {"length": 2}, {"warmth": 1}, {"warmth": 2}, {"warmth": 3}, {"harm": 2}]
    assert [dict(t) for t in asked[:6]] == alone
    pairs = asked[6:]
    assert [t for t in pairs if is_held_out(t, held_out)] == held_out
    seen = [t for t in pairs if not is_held_out(t, held_out)]
    assert len(seen) == len(set(seen)) == 2
    for pair, other in zip(held_out, seen, strict=True):
        assert sum(pair[n] != other[n] for n in pair) == 1


def test_answers_carry_prompt_request_and_verdict(tiny_chat: Path, tmp_path: Path) -> None:
    model, tokenizer = models.load_chat_model(str(tiny_chat), tiny_chat, "float32", "cpu")
    prompts = [[{"role": "user", "content": f"Rain {i}?"}] for i in range(3)]
    asked = requests(SCHEMA, [])

    def run(seed: int) -> list[dict[str, object]]:
        system = System("the model", model, tokenizer, SCHEMA, "user_suffix", seed, tmp_path / str(seed), Progress())
        return [r.model_dump() for r in answer(system, "asking", prompts, asked, AnnotatorJudge(SCHEMA), Sampling(5, 1.0))]

    rows = run(0)
    assert [(r["prompt"], r["targets"]) for r in rows] == [(p, dict(t)) for p in range(3) for t in asked]
    for r in rows:
        assert r["levels"] == ({"length": 1.0 + (len(str(r["text"]).split()) > 2)} if r["text"] else {})
    assert rows == run(0) != run(1)


def test_empty_answer_has_no_level() -> None:
    assert AnnotatorJudge(SCHEMA).levels(["?"] * 3, ["one", "", "one two three"]) == [{"length": 1.0}, {}, {"length": 2.0}]


def test_reward_model_judge_gives_expected_levels(tiny_encoder: Path) -> None:
    scorer = RewardScorer(*create(str(tiny_encoder), SCHEMA, None, 64))
    (found,) = RewardModelJudge(scorer).levels(["Rain?"], ["Snow."])
    p = scorer(["Rain?"], ["Snow."])
    assert found["warmth"] == pytest.approx(p["warmth"][0] @ [1, 2, 3])
    assert set(found) == set(SCHEMA.names)
