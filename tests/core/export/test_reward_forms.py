"""The reward model as a plain classifier gives the scorer's numbers, by the code that its README shows; RewardBench's rows."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moslim_core.errors import UserError
from moslim_core.export.classifier import export_classifier
from moslim_core.export.rewardbench import export_scores
from moslim_core.preferences import PreferenceSchema
from moslim_core.reward.model import create
from moslim_core.reward.scorer import RewardScorer
from tests.core.policy.runs import PREFERENCES, random_reward_model

QUESTION, ANSWER = "How do bees make honey?", "They collect nectar."


def made(backbone: Path, folder: Path, head: Any = "classification", pooling: str | None = None, calibrated: bool = True) -> Path:
    model, tokenizer = create(str(backbone), PreferenceSchema.model_validate(PREFERENCES), None, 64, head)
    torch.manual_seed(0)
    for one in model.heads:
        torch.nn.init.normal_(one.linear.weight)
        torch.nn.init.normal_(one.linear.bias)
    if pooling:
        model.config.pooling = pooling
    model.config.scales = [0.5, 2.0]
    if calibrated:
        model.config.shifts = [[0.3, 0.0, -0.2], [0.5, -0.5]]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def shown(output: Path) -> torch.Tensor:
    """What the README's code prints of the last preference, run as it stands there."""
    code = re.search(r"(?s)```python\n(.*?)```", (output / "README.md").read_text())[1]  # type: ignore[index]
    values: dict[str, Any] = {"folder": str(output)}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code.replace("print(", "printed = (", 1), values)
    return values["printed"][1].detach()


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_the_readme_s_code_gives_the_scorer_s_probabilities(pooling: str, tiny_encoder: Path, tiny_chat: Path, tmp_path: Path) -> None:
    reward = made(tiny_chat if pooling == "last" else tiny_encoder, tmp_path / "reward", pooling=pooling)
    output = export_classifier(reward, tmp_path / "out")
    name = "Sequence" if pooling == "cls" else "Token"
    assert f"AutoModelFor{name}Classification" in (output / "README.md").read_text()
    assert list(json.loads((output / "config.json").read_text())["id2label"].values()) == [
        "warmth=1", "warmth=2", "warmth=3", "length=1", "length=2",
    ]  # fmt: skip
    expected = RewardScorer.load(reward)([QUESTION], [ANSWER])["length"][0]
    np.testing.assert_allclose(shown(output), expected, atol=1e-3)


def test_ordinal_heads_give_the_probability_of_a_level_or_more(tiny_encoder: Path, tmp_path: Path) -> None:
    reward = made(tiny_encoder, tmp_path / "reward", "ordinal", calibrated=False)
    output = export_classifier(reward, tmp_path / "out")
    assert "warmth>=2" in (output / "config.json").read_text().encode().decode("unicode-escape")
    expected = RewardScorer.load(reward)([QUESTION], [ANSWER])["length"][0]
    assert float(shown(output)[0]) == pytest.approx(expected[1], abs=1e-3)


def test_several_backbones_are_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    reward = made(tiny_encoder, tmp_path / "reward")
    config = json.loads((reward / "config.json").read_text())
    (reward / "config.json").write_text(json.dumps({**config, "shared": False}))
    with pytest.raises(UserError, match="one backbone a preference"):
        export_classifier(reward, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_in_rewardbench_s_format(tiny_encoder: Path, tmp_path: Path) -> None:
    reward = random_reward_model(tiny_encoder, PREFERENCES, tmp_path / "reward")
    rows = [{"id": n, "subset": "ab"[n % 2], "prompt": f"How is {n}?", "chosen": "good", "rejected": "bad and wrong"} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "id": 4, "rejected": "good"}]))
    output = export_scores(reward, tmp_path / "rows.jsonl", tmp_path / "out")
    found = [json.loads(line) for line in (output / "scores.jsonl").read_text().splitlines()]
    assert [row["id"] for row in found] == [0, 1, 2, 3, 4]
    for row in found:
        difference = row["scores_chosen"] - row["scores_rejected"]
        assert row["results"] == (0.5 if difference == 0 else float(difference > 0))
        assert row["scores_chosen"] == pytest.approx(np.mean([pair[0] for pair in row["heads"].values()]))
    assert found[4]["results"] == 0.5
    summary = json.loads((output / "summary.json").read_text())
    assert {subset: of["rows"] for subset, of in summary.items()} == {"all": 5, "a": 3, "b": 2}
