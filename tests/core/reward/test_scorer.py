"""Scores come in the order asked for and do not depend on what else is scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moslim_core.errors import UserError
from moslim_core.preferences import PreferenceSchema
from moslim_core.reward.model import create
from moslim_core.reward.scorer import RewardScorer

SCHEMA = PreferenceSchema.model_validate([{"name": "x", "levels": ["a", "b"]}, {"name": "y", "levels": ["a", "b", "c"]}])
WORDS = ["good", "bad", "rain", "snow", "river", "fox", "bread", "flour"]


def pairs(count: int = 24) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 40))) for _ in range(2 * count)]
    return texts[:count], texts[count:]


@pytest.fixture(params=["tiny_encoder", "tiny_chat"])
def model(request: pytest.FixtureRequest) -> tuple[object, object]:
    return create(str(request.getfixturevalue(request.param)), SCHEMA, None, 64)


def test_scores_depend_on_neither_batch_nor_order(model: tuple) -> None:
    questions, answers = pairs()
    wide = RewardScorer(*model, token_budget=8192)(questions, answers)
    assert np.ptp(wide["x"][:, 0]) > 1e-3  # the rows do differ
    narrow = RewardScorer(*model, token_budget=64)(questions, answers)
    order = np.random.default_rng(1).permutation(len(answers))
    mixed = RewardScorer(*model, token_budget=500)([questions[i] for i in order], [answers[i] for i in order])
    for name in SCHEMA.names:
        assert wide[name].shape == (len(answers), SCHEMA[name].k)
        np.testing.assert_allclose(wide[name].sum(axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(narrow[name], wide[name], atol=1e-5)
        np.testing.assert_allclose(mixed[name], wide[name][order], atol=1e-5)


def test_padded_batches_stay_within_the_token_budget(model: tuple) -> None:
    lengths = [60, 3, 3, 40, 20, 5, 64, 64]
    batches = RewardScorer(*model, token_budget=64)._batches(lengths)
    assert sorted(i for rows in batches for i in rows) == list(range(8))
    assert all(len(rows) * max(lengths[i] for i in rows) <= 64 for rows in batches)
    # A row beyond the budget is scored alone rather than never.
    assert [len(rows) for rows in RewardScorer(*model, token_budget=10)._batches(lengths)] == [2, 1, 1, 1, 1, 1, 1]


def test_no_rows_and_progress(model: tuple) -> None:
    scorer = RewardScorer(*model, token_budget=64)
    assert {n: p.shape for n, p in scorer([], []).items()} == {"x": (0, 2), "y": (0, 3)}
    done: list[int] = []
    scorer(*pairs(), on_batch=done.append)
    assert done == sorted(set(done))
    assert done[-1] == 24


def test_folder_that_is_no_reward_model_is_refused(tiny_chat: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, tiny_chat):
        with pytest.raises(UserError, match="is no reward model of this project"):
            RewardScorer.load(folder)
