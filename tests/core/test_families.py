"""Off-the-shelf models of many families through every stage: label, reward (whole and as an adapter), policy, evaluation, chat."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PretrainedConfig

from moslim_core import models
from moslim_core.data.prepare import prepare
from moslim_core.data.rows import write_json_lines
from moslim_core.evaluation.judges import RewardModelJudge
from moslim_core.evaluation.suite import Control
from moslim_core.evaluation.system import System
from moslim_core.policy import training as policy_training
from moslim_core.policy.generation import Sampling, generate
from moslim_core.policy.log_probs import completion_log_probs
from moslim_core.policy.shared_prefix import can_share, generate_completions
from moslim_core.policy.steerable import SteerablePolicy
from moslim_core.preferences import PreferenceSchema
from moslim_core.preflight import check_models
from moslim_core.reward import training as reward_training
from moslim_core.reward.model import create
from moslim_core.reward.scorer import RewardScorer
from moslim_core.sampling import generation_config
from moslim_core.settings import Settings
from moslim_core.settings_section import changed
from moslim_core.training.adapters import adapter_config
from moslim_core.training.progress import Progress
from tests.core.family_models import FAMILIES, OPTIONS, RECURRENT, make_family


def settings_of(base: Path, folder: Path) -> Settings:
    rng = random.Random(0)
    rows = (
        {"prompt": f"How is number {n}?", "response": f"It is {'good' if level > 1 else 'bad'}.", "warmth": level}
        for n in range(30)
        for level in rng.sample((1, 2, 3), 2)
    )
    write_json_lines(folder / "rows.jsonl", rows)
    return Settings.model_validate(
        {
            "work_dir": folder,
            "preferences": [{"name": "warmth", "levels": ["cold", "neutral", "warm"]}],
            "data": {"source": "jsonl", "path": folder / "rows.jsonl"},
            "model": {"base": str(base), "dtype": "float32", "device": "cpu"},
            "reward": {"backbone": str(base), "epochs": 0.2, "batch_size": 4, "max_length": 48, "layers": None, "lora_rank": 2},
            "mapping": {"standardisation": "none"},
            "policy": {
                "steps": 2, "prompts_per_step": 1, "targets_per_prompt": 2, "group_size": 2, "micro_batch": 2, "max_new_tokens": 5,
                "learning_rate": 0.01, "lora_rank": 2, "optimiser": "rloo", "relabel": False, "credit": "answer",
            },
            "evaluation": {"limit": 2, "bootstrap": 100},
        }
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_goes_through_every_stage(family: str, tiny_chat: Path, tmp_path: Path) -> None:
    base = make_family(family, tiny_chat, tmp_path / "base")
    settings = settings_of(base, tmp_path)
    check_models(settings, tmp_path)
    rows, progress = tmp_path / "rows", Progress(tmp_path / "events.jsonl")
    prepare(settings, rows, tmp_path, progress)
    scorers = {}
    for tuning in ("full", "lora"):
        reward = changed(settings.reward, tuning=tuning)
        folder = tmp_path / tuning
        reward_training.train(
            reward, settings.model, settings.preferences, rows, "train", 0, tmp_path, tmp_path / f"{tuning}.steps", folder, progress
        )
        scorers[tuning] = RewardScorer.load(folder)
        assert scorers[tuning](["How?"], ["Good."])["warmth"].sum() == pytest.approx(1)
    policy = tmp_path / "policy"
    policy_training.train(settings, rows, tmp_path / "full", tmp_path, tmp_path / "steps", policy, progress)
    trained = SteerablePolicy.from_pretrained(policy, tmp_path, "float32", "cpu")
    model, tokenizer, card = trained.model, trained.tokenizer, trained.card
    start, _ = models.load_chat_model(str(base), tmp_path, "float32", "cpu")
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), start.parameters(), strict=True)), "nothing was learnt"
    assert can_share(model) == (family not in RECURRENT)
    assert models.context(model.config) == 512
    system = System("after", model, tokenizer, card.preferences, card.placement, 0, tmp_path / "kept", progress)
    judge = RewardModelJudge(scorers["lora"])
    (output := tmp_path / "evaluation").mkdir()
    found = Control(settings.evaluation, card, rows, [judge], output).of("after", system)
    assert found["truncated"] is not None and found["off_topic"] is None
    assert isinstance(trained.chat("Rain?", {"warmth": 3}, max_new_tokens=5), str)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", *RECURRENT])
def test_prompts_side_by_side_give_what_each_gives_alone(family: str, tiny_chat: Path, tmp_path: Path) -> None:
    model, tokenizer = models.load_chat_model(str(make_family(family, tiny_chat, tmp_path / "base")), tmp_path, "float32", "cpu")
    prompts = tokenizer(["How is rain?", "How is snow in the winter, and", "How"])["input_ids"]
    config = generation_config(models.end_tokens(model, tokenizer), tokenizer.pad_token_id, 0.0, max_new_tokens=6)
    together = generate_completions(model, prompts, config)
    assert together == [generate_completions(model, [prompt], config)[0] for prompt in prompts]
    answers = torch.tensor([tokenizer("good bad good")["input_ids"]] * 3)
    whole = torch.ones_like(answers)
    with torch.no_grad():
        found = completion_log_probs(model, prompts, answers, whole).log_probs
        for row, prompt in enumerate(prompts):
            alone = completion_log_probs(model, [prompt], answers[:1], whole[:1], share=False).log_probs
            torch.testing.assert_close(found[row : row + 1], alone, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("family", OPTIONS)
def test_what_no_file_holds_is_computed_anew(family: str, tiny_chat: Path, tmp_path: Path) -> None:
    """Multipliers, frequencies, scales: numbers of the configuration's, which the library would else leave as they lay in memory."""
    base = make_family(family, tiny_chat, tmp_path / "base")
    chat, _ = models.load_chat_model(str(base), tmp_path, "float32", "cpu")
    made = type(chat)(chat.config)
    reward, tokenizer = create(str(base), PreferenceSchema.model_validate([{"name": "warmth", "levels": ["cold", "warm"]}]), None, 64)
    reward.save_pretrained(tmp_path / "reward")
    tokenizer.save_pretrained(tmp_path / "reward")
    loaded = RewardScorer.load(tmp_path / "reward")
    for found, computed in ((chat, made), (loaded.model, reward)):
        for (name, buffer), (_, expected) in zip(found.named_buffers(), computed.named_buffers(), strict=True):
            assert torch.equal(buffer, expected), name
    probabilities = [scorer(["How?"], ["Good."])["warmth"].tolist() for scorer in (RewardScorer(reward, tokenizer), loaded)]
    assert probabilities[0] == probabilities[1]


@pytest.mark.parametrize("family", OPTIONS)
def test_layers_are_the_text_part_s(family: str, tiny_chat: Path, tmp_path: Path) -> None:
    base = make_family(family, tiny_chat, tmp_path / "base")
    model, _ = models.load_chat_model(str(base), tmp_path, device="cpu", weights=False)
    name, stack = models.layer_stack(model)
    assert len(stack) == 2 and "expert" not in name and "vision" not in name
    targets = adapter_config(model, 2, 1, "CAUSAL_LM").target_modules
    assert targets and all(target.startswith(f"{name}.1.") for target in targets)


def test_a_mixture_of_many_experts_is_cut_to_its_layers() -> None:
    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = PretrainedConfig(num_hidden_layers=2)
            self.layers = nn.ModuleList(nn.ModuleDict({"experts": nn.ModuleList(nn.Linear(2, 2) for _ in range(8))}) for _ in range(2))

    name, stack = models.layer_stack(Mixture())
    assert (name, len(stack)) == ("layers", 2)


def test_a_model_s_own_settings_change_no_answer(tiny_chat: Path, tmp_path: Path) -> None:
    """Greedy and drawn, as if the model had none."""
    answers = []
    for name, own in (("plain", {}), ("own", {"repetition_penalty": 1.9, "no_repeat_ngram_size": 1, "suppress_tokens": [5, 6, 7]})):
        model, tokenizer = models.load_chat_model(str(make_family("llama", tiny_chat, tmp_path / name, **own)), tmp_path, "float32", "cpu")
        asked = [[{"role": "user", "content": f"How is number {n}?"}] for n in range(4)]
        answers.append([generate(model, tokenizer, asked, Sampling(8, temperature), 0) for temperature in (0.0, 1.0)])
    assert answers[0] == answers[1]
