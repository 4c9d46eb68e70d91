"""Answers that vLLM draws, with a stand-in for it: what it is given, and that the policy learns from them what it would from its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from moslim_core.policy import rollouts
from moslim_core.settings import PolicySettings
from tests.core.policy.recorded_run import recorded
from tests.core.policy.runs import STEPS, metrics, train

OPTIMISERS = ("rloo", "grpo", "ppo")


class Sampler:
    """In place of TRL's VLLMGeneration: recorded answers, each token said to have been drawn with the same log-probability."""

    made: list[Sampler]
    log_prob: float | None

    def __init__(self, model: Any, mode: str, logprobs: int | None, **_: Any) -> None:
        self.model, self.mode, self.logprobs = model, mode, logprobs
        self.handed: list[set[str]] = []
        self.made.append(self)

    def sync_weights(self) -> None:
        names = (name.removeprefix("base_model.model.").replace(".base_layer", "") for name, _ in self.model.named_parameters())
        self.handed.append({name for name in names if self.model.prefix not in name})

    def generate(self, prompts: list[list[int]], **_: Any) -> tuple[Any, ...]:
        answers = recorded(prompts)
        return prompts, answers, [[[self.log_prob] for _ in a] for a in answers] if self.logprobs is not None else None, None


@pytest.fixture
def sampler(monkeypatch: pytest.MonkeyPatch) -> type[Sampler]:
    class Own(Sampler):
        made: list[Sampler] = []
        # Unknown: TRL then takes it for the policy's own.
        log_prob = None

    for name in ("rloo", "grpo"):
        monkeypatch.setattr(f"trl.trainer.{name}_trainer.VLLMGeneration", Own)
    monkeypatch.setattr(rollouts, "generate_completions", lambda model, prompt_ids, config: recorded(prompt_ids))
    return Own


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "output" / "adapter_model.safetensors")


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_answers_of_vllm_teach_what_the_same_answers_do(
    optimiser: str, sampler: type[Sampler], tiny_chat: Path, reward_folder: Path, tmp_path: Path
) -> None:
    for vllm in (False, True):
        (tmp_path / str(vllm)).mkdir()
        train(tmp_path / str(vllm), tiny_chat, reward_folder, "output", {}, optimiser=optimiser, vllm=vllm)
    (used,) = sampler.made
    assert used.mode == "colocate"
    # vLLM knows the base's own weights and no others.
    known = {name for name, _ in AutoModelForCausalLM.from_pretrained(tiny_chat).named_parameters()}
    assert used.handed == [known] * STEPS
    without, found = (metrics(tmp_path / str(vllm), "output") for vllm in (False, True))
    for step, values in found.items():
        assert values.keys() == without[step].keys()
        for name in ("reward", "kl", "entropy", "loss", "grad_norm"):
            assert values[name] == pytest.approx(without[step][name], rel=1e-4, abs=1e-6), (step, name)
    first, second = (adapter(tmp_path / str(vllm)) for vllm in (False, True))
    assert all(torch.allclose(first[k], second[k], atol=1e-5) for k in first)


def test_ppo_does_not_learn_from_answers_that_the_policy_would_not_give(
    sampler: type[Sampler], tiny_chat: Path, reward_folder: Path, tmp_path: Path
) -> None:
    sampler.log_prob = -50.0
    train(tmp_path, tiny_chat, reward_folder, "output", {}, optimiser="ppo", vllm=True)
    assert all((v == 0).all() for k, v in adapter(tmp_path).items() if "lora_B" in k)


@pytest.mark.parametrize("settings", [{"relabel": True}, {"optimiser": "online_dpo", "beta": 0.1}])
def test_what_vllm_does_not_go_with(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="vllm=true goes with rloo, grpo and ppo without relabel only"):
        PolicySettings(**settings, vllm=True)
