"""RLOO and GRPO against TRL's trainers, the yardstick: advantages and loss on the same recorded batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from moslim_core.policy.conditioning import Example
from moslim_core.policy.optimisers import Optimiser, optimiser_class
from moslim_core.policy.rollouts import Rollout, RolloutBatch, pair
from moslim_core.policy.settings import PolicySettings
from moslim_core.preferences import PreferenceSchema, Targets
from moslim_core.reward.mapping import RewardMapping
from moslim_core.reward.settings import MappingSettings
from tests.core.policy.runs import PREFERENCES

GROUPS, GROUP, BETA, CLIP = 3, 4, 0.3, 0.05
# Of each answer: two rewards, None where a preference is not requested.
WHOLE = [
    [0.1, 0.9],
    [0.4, 0.2],
    [0.9, 0.3],
    [0.2, 0.2],
    [0.5, 0.1],
    [0.5, 0.8],
    [0.7, 0.4],
    [0.1, 0.6],
    [0.3, 0.3],
    [0.8, 0.7],
    [0.2, 0.9],
    [0.6, 0.5],
]
PARTLY: list[list[float | None]] = [
    [first if row >= GROUP else None, second if row < 2 * GROUP else None] for row, (first, second) in enumerate(WHOLE)
]
WEIGHTS = [2.0, 0.5]
PER_PREFERENCE = {"multi_objective_aggregation": "normalize_then_sum", "loss_type": "dapo"}


def answers() -> list[list[int]]:
    """Of different lengths, each with a first token of its own; some come to their end."""
    return [[10 + row, *range(20 + row, 20 + row + row % 4), *([2] if row % 2 else [])] for row in range(GROUPS * GROUP)]


class Spy:
    """Keeps, of each update of one of TRL's trainers on the recorded answers, in their order: what it sees and its loss."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.seen: list[dict[str, torch.Tensor]] = []

    def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any) -> Any:
        found = answers()
        return found if issubclass(type(self), RLOOTrainer) else (found, None)

    def _compute_loss(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        loss: torch.Tensor = super()._compute_loss(model, inputs)  # type: ignore[misc]
        completion = inputs["completion_ids"]
        rows = (torch.cat([inputs["prompt_ids"], completion], 1), torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1))
        read = self._get_per_token_logps_and_entropies  # type: ignore[attr-defined]
        with torch.no_grad():
            now = read(model, *rows, completion.shape[1])[0]
            with model.disable_adapter():
                start = read(model, *rows, completion.shape[1])[0]
        order = completion[:, 0].argsort()
        found = {"ids": completion, "mask": inputs["completion_mask"], "advantages": inputs["advantages"], "now": now, "start": start}
        self.seen.append({name: value[order] for name, value in found.items()} | {"loss": loss.detach()})
        return loss


class SpiedRLOO(Spy, RLOOTrainer):
    pass


class SpiedGRPO(Spy, GRPOTrainer):
    pass


def of_trl(optimiser: str, base: Path, folder: Path, rewards: list[list[float | None]], **own: Any) -> list[dict[str, torch.Tensor]]:
    """Two updates of TRL's trainer on one batch of answers."""
    kind, configuration = {"rloo": (SpiedRLOO, RLOOConfig), "grpo": (SpiedGRPO, GRPOConfig)}[optimiser]
    by_first = {answer[0]: row for answer, row in zip(answers(), rewards, strict=True)}

    def reward(number: int) -> Any:
        def function(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
            return [by_first[ids[0]][number] for ids in completion_ids]

        function.__name__ = f"reward_{number}"
        return function

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(0)
    arguments = configuration(
        output_dir=str(folder), per_device_train_batch_size=GROUPS * GROUP, num_generations=GROUP, num_iterations=2, max_steps=2, beta=BETA,
        epsilon=CLIP, max_completion_length=8, learning_rate=0.02, report_to=[], use_cpu=True, bf16=False, save_strategy="no",
        reward_weights=WEIGHTS, gradient_checkpointing=False, temperature=1.0, lr_scheduler_type="constant", disable_tqdm=True, **own,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": f"Rain number {number}?"} for number in range(GROUPS)])
    adapter = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    functions = [reward(0), reward(1)]
    trainer = kind(model, functions, args=arguments, train_dataset=data, processing_class=tokenizer, peft_config=adapter)
    trainer.train()
    assert len(trainer.seen) == 2 and not torch.allclose(trainer.seen[0]["now"], trainer.seen[1]["now"], atol=1e-3)
    return trainer.seen


def batch_of(
    ids: torch.Tensor, mask: torch.Tensor, old: torch.Tensor, start: torch.Tensor, rewards: list[list[float | None]]
) -> RolloutBatch:
    """Our batch of answers in groups of four; the reward is the weighted sum."""
    number = len(rewards) // GROUP
    examples = [Example([], "", Targets(), family, []) for family in range(number)]
    rollouts = [Rollout(row[:1].tolist(), n // GROUP, n // GROUP) for n, row in enumerate(ids)]
    table = torch.tensor([[float("nan") if value is None else value for value in row] for row in rewards])
    summed = (table * torch.tensor(WEIGHTS)).nansum(dim=1)
    pairs = pair(examples, rollouts, False)
    weight, tokens = torch.ones(len(rewards)), int(mask.sum())
    return RolloutBatch(
        pairs, [], ids, mask, summed, table, old * mask, start * mask, None, weight, len(rewards), tokens
    )  # fmt: skip


def ours(optimiser: str, **more: Any) -> Optimiser:
    schema = PreferenceSchema.model_validate(PREFERENCES)
    mapping = RewardMapping(schema, MappingSettings(weights=dict(zip(schema.names, WEIGHTS, strict=True))))
    return optimiser_class(optimiser)(PolicySettings.model_validate({"optimiser": optimiser, "beta": BETA, "clip": CLIP} | more), mapping)


@pytest.mark.parametrize(
    ("optimiser", "rewards", "of_theirs", "of_ours"),
    [
        ("rloo", WHOLE, {"normalize_advantages": True}, {}),
        ("rloo", WHOLE, {"normalize_advantages": False}, {"normalise_advantages": False}),
        ("grpo", WHOLE, {"scale_rewards": "group", "loss_type": "dapo"}, {}),
        ("grpo", WHOLE, {"scale_rewards": "none", "loss_type": "dapo"}, {"normalise_advantages": False}),
        ("grpo", WHOLE, PER_PREFERENCE, {"grpo": {"normalise": "per_preference"}}),
        ("grpo", PARTLY, PER_PREFERENCE, {"grpo": {"normalise": "per_preference"}}),
    ],
)  # fmt: skip
def test_advantages_and_losses_are_trl_s(
    optimiser: str, rewards: Any, of_theirs: dict[str, Any], of_ours: dict[str, Any], tiny_chat: Path, tmp_path: Path
) -> None:
    first, second = of_trl(optimiser, tiny_chat, tmp_path, rewards, **of_theirs)
    own = ours(optimiser, **of_ours)
    batch, _ = own.prepared(batch_of(first["ids"], first["mask"], first["now"], first["start"], rewards))
    torch.testing.assert_close(batch.advantages, first["advantages"], atol=2e-6, rtol=1e-6)
    ratios = (second["now"] - first["now"]).exp()[first["mask"] == 1]
    assert (ratios - 1).abs().max() > CLIP, "some are clipped"
    for seen in (first, second):
        loss = own.loss(batch, seen["now"] * batch.mask, None)
        assert float(loss) == pytest.approx(float(seen["loss"]), rel=1e-6, abs=1e-6)


def fixed() -> tuple[torch.Tensor, ...]:
    """(ids, mask, log-probabilities before the step, of the reference, and as they are now), made up: no model plays a part."""
    found = answers()
    width = max(map(len, found))
    ids = torch.tensor([answer + [0] * (width - len(answer)) for answer in found])
    mask = torch.tensor([[1] * len(answer) + [0] * (width - len(answer)) for answer in found])
    number = torch.arange(ids.numel()).reshape(ids.shape)
    return ids, mask, *(-2 + torch.sin(1.7 * number + shift) * by for shift, by in ((0.0, 1.0), (0.4, 0.9), (0.1, 1.1)))


# What TRL 1.16's trainers gave for `fixed`: (advantages, loss).
GOLDEN: list[tuple[str, Any, dict[str, Any], list[float], float]] = [
    (
        "rloo", WHOLE, {"normalise_advantages": False},
        [-0.401355, -0.246997, 1.302258, -0.653906, -0.187402, 0.525064, 0.588983, -0.926644, -0.611931, 0.749888, -0.521941, 0.383983],
        -0.0002353,
    ),
    (
        "grpo", WHOLE, {},
        [-0.534701, -0.152772, 1.45133, -0.763858, -0.18151, 0.544531, 0.959411, -1.322432, -0.893077, 1.250308, -0.714462, 0.357231],
        0.0338316,
    ),
    (
        "grpo", PARTLY, {"grpo": {"normalise": "per_preference"}},
        [0.505181, -0.202073, -0.101036, -0.202073, -0.156852, 0.640475, 1.266011, -1.749635, -0.864561, 1.605613, -1.358596, 0.617543],
        0.0695253,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("optimiser", "rewards", "more", "advantages", "loss"), GOLDEN)
def test_golden_numbers(optimiser: str, rewards: Any, more: dict[str, Any], advantages: list[float], loss: float) -> None:
    ids, mask, old, start, now = fixed()
    own = ours(optimiser, **more)
    batch, _ = own.prepared(batch_of(ids, mask, old, start, rewards))
    assert batch.advantages.tolist() == pytest.approx(advantages, abs=2e-6)
    assert float(own.loss(batch, now * mask, None)) == pytest.approx(loss, abs=1e-6)
