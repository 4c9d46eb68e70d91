"""The whole of a training on a tiny policy with a real reward folder: metrics, artefact, limits, what is saved."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from moslim_core import models
from moslim_core.errors import UserError
from moslim_core.export.merged import export_merged
from moslim_core.policy import learner, training
from moslim_core.policy.artifact import PolicyCard, load_policy
from moslim_core.policy.conditioning import held_out_combinations
from moslim_core.policy.training_log import TrainingLog
from moslim_core.reward.mapping import RewardMapping
from moslim_core.settings import Settings
from moslim_core.training.adapters import adapter_config
from moslim_core.training.progress import Progress
from tests.conftest import naming
from tests.core.policy.runs import GROUP, PROMPTS, STEPS, metrics, train


@pytest.fixture(scope="module")
def trained(tiny_chat: Path, reward_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Settings]:
    folder = tmp_path_factory.mktemp("policy")
    return folder, train(folder, tiny_chat, reward_folder, "output", {"standardisation": "running"})


def test_metrics_tell_preferences_levels_and_phases(trained: tuple[Path, Settings]) -> None:
    found = metrics(trained[0], "output")
    every = {key for values in found.values() for key in values}
    for name in ("warmth", "length"):
        assert {f"utility/{name}", f"standardised/{name}", f"zero_variance/{name}"} <= every
    assert {"expected_level/warmth/1", "expected_level/warmth/3", "expected_level/length/2"} <= every
    assert {"reward", "reward_std", "entropy", "completion_tokens", "truncated", "zero_variance", "loss", "grad_norm"} <= every
    for values in found.values():
        assert all(math.isfinite(v) for v in values.values())
        assert min(values[f"seconds/{phase}"] for phase in ("rollout", "reward", "update")) > 0
        assert all(0 <= v <= 1 for k, v in values.items() if k.startswith(("utility/", "zero_variance")))
        assert 0 < values["completion_tokens"] <= 6
        assert values["tokens_per_second"] > 0


def test_policy_loads_and_is_not_the_base(trained: tuple[Path, Settings], tiny_chat: Path) -> None:
    folder, settings = trained
    adapter = load_file(folder / "output" / "adapter_model.safetensors")
    changed = {k for k, v in adapter.items() if "lora_B" in k and v.any()}
    assert changed == {k for k in adapter if "lora_B" in k}
    assert len(changed) == 7  # the linear maps of one Llama layer: q, k, v, o, gate, up, down
    assert all(".layers.1." in k for k in adapter)
    policy, tokenizer, card = load_policy(folder / "output", folder, "float32", "cpu")
    base, _ = models.load_chat_model(str(tiny_chat), folder, "float32", "cpu")
    ids = tokenizer("Rain number 1?", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert (policy(ids).logits - base(ids).logits).abs().max() > 1e-2
    assert card.preferences == settings.preferences
    assert (card.placement, card.steps, card.max_new_tokens, card.optimiser) == ("user_suffix", STEPS, 6, "rloo")
    assert card.held_out == [dict(t) for t in held_out_combinations(settings.preferences, settings.policy, 3)] != []


def test_card_says_what_can_be_asked_and_merged_weights_are_the_policy(tiny_chat: Path, reward_folder: Path, tmp_path: Path) -> None:
    train(tmp_path, tiny_chat, reward_folder, "output", {"standardisation": "none"})
    card = (tmp_path / "output" / "README.md").read_text()
    assert "- **warmth**: 1 = cold, 2 = neutral, 3 = warm" in card and "| length | 2 of 2 |" in card
    assert f'base_model: "{tiny_chat.name}"' in card and f"base=FOLDER)  # FOLDER: where {tiny_chat.name} is" in card
    assert naming(tmp_path / "output", tiny_chat) == [], "whoever gets the policy does not learn whose folder its base was in"
    policy, tokenizer, _ = load_policy(tmp_path / "output", tmp_path, "float32", "cpu")
    exported = export_merged(tmp_path / "output", tmp_path / "merged", tmp_path, "float32", None, None)
    merged, _ = models.load_chat_model(str(exported), tmp_path, "float32", "cpu")
    ids = tokenizer("Rain number 1?", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(policy(ids).logits, merged(ids).logits, atol=1e-4, rtol=1e-4)


def test_mapping_statistics_are_saved_with_the_policy(trained: tuple[Path, Settings]) -> None:
    card = PolicyCard.load(trained[0] / "output")
    mapping = RewardMapping(card.preferences, card.mapping)
    mapping.load_state(card.mapping_state)
    # 4 steps of 2 prompts with 4 answers, each naming one or both preferences.
    assert 0 < mapping.statistics.pooled["warmth"].rows <= 32
    assert sum(m.rows for (n, _), m in mapping.statistics.by_level.items() if n == "warmth") == (mapping.statistics.pooled["warmth"].rows)


def test_one_pass_for_answers_and_update(tiny_chat: Path, reward_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one part holds all rows the update takes the rollout's pass; two parts are computed anew. The reference is always one more.

    An optimiser that does not look back has no pass before its update.
    """
    passes: list[bool] = []
    shared = learner.completion_log_probs

    def counted(*args: Any, **kwargs: Any) -> Any:
        passes.append(torch.is_grad_enabled())
        return shared(*args, **kwargs)

    monkeypatch.setattr(learner, "completion_log_probs", counted)
    whole, half = PROMPTS * GROUP, PROMPTS * GROUP // 2
    for optimiser, micro, expected in (
        ("rloo", whole, [True, False]),
        ("rloo", half, [False] * 4 + [True] * 2),
        ("online_dpo", whole, [False, True]),
        ("online_dpo", half, [False] * 2 + [True] * 2),
    ):
        (home := tmp_path / f"{optimiser}-{micro}").mkdir()
        passes.clear()
        more = {"micro_batch": micro, "optimiser": optimiser, "beta": 0.1, "steps": 2}
        train(home, tiny_chat, reward_folder, "output", {"standardisation": "none"}, **more)
        assert passes == expected * 2


def test_time_limit_ends_training_and_counts_what_was_spent_before(tiny_chat: Path, reward_folder: Path, tmp_path: Path) -> None:
    train(tmp_path, tiny_chat, reward_folder, "output", {"standardisation": "none"}, max_minutes=1e-6)
    assert PolicyCard.load(tmp_path / "output").steps == 1 == len(metrics(tmp_path, "output"))
    log = TrainingLog(Progress(None), 4, spent=599.0)
    assert 599 <= log.seconds() < 600 and not log.is_over(10) and log.is_over(9.9) and not log.is_over(None)


def test_a_precision_that_another_training_left_in_the_process_changes_nothing(
    trained: tuple[Path, Settings], tiny_chat: Path, reward_folder: Path, tmp_path: Path
) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        Accelerator(cpu=True, mixed_precision="bf16")
        train(tmp_path, tiny_chat, reward_folder, "output", {"standardisation": "running"})
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    alone, after = (load_file(folder / "output" / "adapter_model.safetensors") for folder in (trained[0], tmp_path))
    assert all(torch.equal(after[name], value) for name, value in alone.items())


def test_figure_that_is_not_finite_stops_the_run() -> None:
    with pytest.raises(RuntimeError, match=r"step 3 gave what is not finite: \{'loss': nan\}\.\nLower policy\.learning_rate"):
        TrainingLog(Progress(None), 4).step(3, {"loss": float("nan"), "kl": 0.1}, 8)


def test_reference_statistics_are_measured_before_the_first_step(tiny_chat: Path, reward_folder: Path, tmp_path: Path) -> None:
    train(tmp_path, tiny_chat, reward_folder, "output", {"standardisation": "reference"}, steps=1, prompts_per_step=4, none_fraction=0.0)
    card = PolicyCard.load(tmp_path / "output")
    rows = {name: rows for name, _, _, rows in card.mapping_state["pooled"]}
    # 128 rollouts of the starting policy, each asking for at least one of the two preferences.
    assert set(rows) == {"warmth", "length"}
    assert all(0 < n <= training.REFERENCE_ROLLOUTS for n in rows.values())
    assert sum(rows.values()) >= training.REFERENCE_ROLLOUTS


def test_adapter_covers_the_last_layers_or_all(tiny_chat: Path) -> None:
    model, _ = models.load_chat_model(str(tiny_chat), tiny_chat, "float32", "cpu")
    assert all("layers.1." in n for n in adapter_config(model, 4, 1, "CAUSAL_LM").target_modules)
    every = adapter_config(model, 4, None, "CAUSAL_LM")
    assert len(every.target_modules) == 14
    assert (every.r, every.lora_alpha, every.lora_dropout) == (4, 8, 0)
    with pytest.raises(UserError, match=r"policy\.lora_layers=3, but the model has 2 layers"):
        adapter_config(model, 4, 3, "CAUSAL_LM")


def test_folder_that_is_no_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no policy of this project"):
        load_policy(tmp_path, tmp_path)
