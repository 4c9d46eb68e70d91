"""RLOO through TRL: leave-one-out baselines over groups of answers to the same conditioned prompt (Ahmadian et al. 2024).

TRL owns rollouts, advantages and updates; conditioning and reward are ours. The reference is the policy at step 0: the base with
its adapter off.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from transformers import TrainerCallback, set_seed
from trl import RLOOConfig, RLOOTrainer

from moslim_core import models
from moslim_core.adapters import adapter_config
from moslim_core.checkpoints import MarkComplete, last_complete
from moslim_core.data.rows import read_json_lines
from moslim_core.policy.artifact import PolicyCard
from moslim_core.policy.conditioning import held_out_combinations, load_targets, training_examples
from moslim_core.policy.generation import Sampling, generate
from moslim_core.policy.relabelling import Pairs, advantages, pair, weights
from moslim_core.policy.reward_function import PolicyReward
from moslim_core.policy.shared_prefix import completion_log_probs, generate_completions
from moslim_core.progress import Progress
from moslim_core.reward.mapping import RewardMapping
from moslim_core.reward.scorer import RewardScorer
from moslim_core.settings import Settings

REFERENCE_ROLLOUTS = 128

# TRL's metric names -> this project's (docs/method.md section 4); the rest of TRL's are not recorded.
METRICS = {
    "reward": "reward",
    "reward_std": "reward_std",
    "kl": "kl",
    "entropy": "entropy",
    "completions/mean_length": "completion_tokens",
    "completions/clipped_ratio": "truncated",
    "frac_reward_zero_std": "zero_variance",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "own_weight": "own_weight",
}


class SharedPrefixRLOOTrainer(RLOOTrainer):
    """TRL's RLOO with what prompts share computed once (`shared_prefix`), and with `relabel` each answer under its prompt's requests.

    Where one update of one batch follows on its answers, the pass that says how probable they are is also the update's: the policy
    is the same, so TRL's second pass would give the same numbers.
    """

    # The pass over the answers at hand, with its graph: (log-probabilities, entropies).
    at_hand: tuple[torch.Tensor, torch.Tensor | None] | None = None
    wanted = False
    pairs: Pairs | None = None

    def __init__(self, reward: PolicyReward, relabel: bool, **options: Any) -> None:
        super().__init__(reward_funcs=cast(Any, reward), **options)
        self.reward, self.relabel = reward, relabel
        # Log-probabilities of the answers at hand: the policy's, then the reference's.
        self.passes: list[torch.Tensor] = []

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        args = cast(RLOOConfig, self.args)
        once = self.num_iterations == args.steps_per_generation == self.accelerator.num_processes == 1
        self.wanted, self.at_hand = once and torch.is_grad_enabled(), None
        self.pairs, self.passes = pair(inputs) if self.relabel else None, []
        scored = super()._generate_and_score_completions(inputs)
        if self.pairs is not None:
            scored = self._relabelled(scored, self.pairs)
            self.pairs = None
        if self.at_hand is not None:
            # With the other tensors of the batch, so that they are shuffled alike.
            scored["log_probs"], scored["entropies"] = self.at_hand
            self.at_hand = None
        return scored

    def _relabelled(self, scored: dict[str, Any], pairs: Pairs) -> dict[str, Any]:
        """The batch with each answer under every request of its prompt. The KL term is that under its own request."""
        policy, *reference = self.passes
        mask = scored["completion_mask"]
        batch = {
            "prompt_ids": scored["prompt_ids"][pairs.requests],
            "prompt_mask": scored["prompt_mask"][pairs.requests],
            "completion_ids": scored["completion_ids"][pairs.answers],
            "completion_mask": mask[pairs.answers],
        }
        if self.at_hand is not None:
            log_probs = self.at_hand[0].detach()
        else:
            with torch.no_grad():
                log_probs, _, _ = self._get_per_token_logps_and_entropies(
                    self.model,
                    torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
                    torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
                    mask.shape[1],
                    cast(RLOOConfig, self.args).per_device_train_batch_size,
                )
        batch["old_logps"] = (log_probs * batch["completion_mask"]).sum(dim=1)
        rewards = self.reward.under(pairs).to(policy)
        for log_probs in reference:
            rewards = rewards - self.beta * ((policy - log_probs) * mask).sum(dim=1)[pairs.answers]
        weight = weights(batch["old_logps"].view(len(mask), -1))
        rewards, advantage = rewards.view_as(weight), torch.empty_like(weight)
        for family in pairs.families.unique():
            rows = pairs.families == family
            advantage[rows] = advantages(weight[rows], rewards[rows])
        if self.normalize_advantages:
            advantage = advantage / ((advantage**2 / weight.clamp(min=1e-6)).mean().sqrt() + 1e-4)
        self._metrics["train"]["own_weight"].append(weight.flatten()[pairs.own].mean().item())
        return {**batch, "advantages": advantage.flatten()}

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        if "log_probs" in inputs:
            self.at_hand = inputs["log_probs"], inputs["entropies"]
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **extra: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        if self.at_hand is not None and compute_entropy:
            (log_probs, entropies), self.at_hand = self.at_hand, None
            return log_probs, entropies, None
        if self.wanted:
            # The first pass after the answers is the policy's, the next is the reference's.
            self.wanted = False
            if self.pairs is not None:
                input_ids, attention_mask = (self.pairs.combine(x, logits_to_keep) for x in (input_ids, attention_mask))
            with torch.enable_grad():
                log_probs, entropies, _ = self._get_per_token_logps_and_entropies(
                    model, input_ids, attention_mask, logits_to_keep, len(input_ids), True, **extra
                )
            self.at_hand = log_probs, entropies
            self.passes.append(log_probs.detach()[slice(None) if self.pairs is None else self.pairs.own])
            return self.passes[0], None, None
        # Wrapped models (DDP, FSDP) expect one forward per backward, and images are no part of what is shared.
        if self.accelerator.num_processes > 1 or any(v is not None and v is not False for v in extra.values()):
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **extra
            )
        parts = [
            completion_log_probs(
                model,
                [row[kept.bool()].tolist() for row, kept in zip(ids[:, :-logits_to_keep], mask[:, :-logits_to_keep], strict=True)],
                ids[:, -logits_to_keep:],
                mask[:, -logits_to_keep:],
                self.temperature,
                compute_entropy,
            )
            for ids, mask in zip(
                input_ids.split(batch_size or len(input_ids)), attention_mask.split(batch_size or len(input_ids)), strict=True
            )
        ]
        log_probs = torch.cat([log_probs for log_probs, _ in parts])
        if not torch.is_grad_enabled():
            self.passes.append(log_probs)
        return log_probs, torch.cat([cast(torch.Tensor, e) for _, e in parts]) if compute_entropy else None, None

    def _generate_single_turn(self, prompt_ids: list[list[int]], images: Any, multimodal_fields: dict[str, Any]) -> list[list[int]]:
        if self.accelerator.num_processes > 1 or images is not None or multimodal_fields or self.use_vllm:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields)
        model = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        model.eval()
        with torch.no_grad():
            completions = generate_completions(model, prompt_ids, self.generation_config)
        model.train(was_training)
        return completions


def train(settings: Settings, prompts: Path, reward_model: Path, cache: Path, checkpoints: Path, output: Path, progress: Progress) -> None:
    """Train on the prompts of a JSON lines file with the reward model of a folder; save the policy in `output`.

    Resumes from the last checkpoint in `checkpoints`, where adapter, optimiser, RNG and mapping statistics are.
    """
    policy, schema = settings.policy, settings.preferences
    set_seed(settings.seed)
    model, tokenizer = models.load_chat_model(settings.model.base, cache, settings.model.dtype, settings.model.device)
    device = str(model.device)
    scorer = RewardScorer.load(reward_model, device)
    mapping = RewardMapping(schema, settings.mapping)
    reward = PolicyReward(scorer, mapping)
    examples = training_examples([v["prompt"] for _, v in read_json_lines(prompts)], schema, policy, settings.seed)
    last = last_complete(checkpoints)
    clock = TimeLimit(policy.max_minutes, last[1]["seconds"] if last else 0.0)
    if last is not None:
        mapping.load_state(last[1]["mapping"])
    elif settings.mapping.standardisation == "reference":
        _fit_reference(mapping, scorer, model, tokenizer, examples, settings)

    rollouts = policy.prompts_per_step * policy.targets_per_prompt * policy.group_size
    most = max(1, policy.micro_batch // (policy.targets_per_prompt if policy.relabel else 1))
    micro = max(d for d in range(1, min(most, rollouts) + 1) if rollouts % d == 0)
    trainer = SharedPrefixRLOOTrainer(
        model=model,
        reward=reward,
        relabel=policy.relabel,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(examples),
        peft_config=adapter_config(model, policy.lora_rank, policy.lora_layers, "CAUSAL_LM"),
        args=RLOOConfig(
            output_dir=str(checkpoints),
            max_steps=policy.steps,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=rollouts // micro,
            num_generations=policy.group_size,
            max_completion_length=policy.max_new_tokens,
            temperature=policy.temperature,
            learning_rate=policy.learning_rate,
            # Without a warm-up the first steps, whose size Adam can't judge yet, lead away from the base for good.
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=min(3, policy.steps // 5),
            beta=policy.beta,
            normalize_advantages=policy.normalise_advantages,
            # Examples come in the order of their stratified targets, each once: a resumed run meets the same ones.
            shuffle_dataset=False,
            # TRL turns it on by default; with adapters on a model that fits, it only costs time.
            gradient_checkpointing=False,
            disable_dropout=True,
            logging_steps=1,
            save_steps=policy.checkpoint_every,
            save_total_limit=2,
            seed=settings.seed,
            report_to=[],
            disable_tqdm=True,
            bf16=False,
            use_cpu=device == "cpu",
            dataloader_pin_memory=device.startswith("cuda"),
        ),
        callbacks=[clock, _Report(progress, reward), MarkComplete(lambda: {"mapping": mapping.state(), "seconds": clock.seconds()})],
    )
    trainer.train(resume_from_checkpoint=str(last[0]) if last else None)

    output.mkdir(parents=True, exist_ok=True)
    trainer.accelerator.unwrap_model(trainer.model).save_pretrained(output)
    tokenizer.save_pretrained(output)
    PolicyCard(
        base=settings.model.base,
        preferences=schema,
        placement=policy.placement,
        optimiser=policy.optimiser,
        steps=trainer.state.global_step,
        max_new_tokens=policy.max_new_tokens,
        mapping=settings.mapping,
        mapping_state=mapping.state(),
        held_out=[dict(pair) for pair in held_out_combinations(schema, policy, settings.seed)],
    ).save(output)


def _fit_reference(
    mapping: RewardMapping, scorer: RewardScorer, model: Any, tokenizer: Any, examples: list[dict[str, Any]], settings: Settings
) -> None:
    chosen = [examples[i % len(examples)] for i in range(REFERENCE_ROLLOUTS)]
    sampling = Sampling(settings.policy.max_new_tokens, settings.policy.temperature)
    answers = generate(model, tokenizer, [e["prompt"] for e in chosen], sampling, settings.seed)
    probabilities = scorer([e["question"] for e in chosen], [a.text for a in answers])
    mapping.fit_reference(probabilities, [load_targets(e["targets"], scorer.schema) for e in chosen])


class TimeLimit(TrainerCallback):
    """Ends training with the first step that ends later than `minutes` after its start; what was spent before a kill counts."""

    def __init__(self, minutes: float | None, spent: float = 0.0) -> None:
        self.minutes, self.begun = minutes, time.monotonic() - spent

    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.minutes is not None and self.seconds() > 60 * self.minutes:
            control.should_training_stop = True


class _Report(TrainerCallback):
    """Metrics under this project's names, seconds per phase, a stop on NaN."""

    def __init__(self, progress: Progress, reward: PolicyReward) -> None:
        self.progress, self.reward = progress, reward
        self.begun = self.ended = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress.update("training the policy", state.global_step, state.max_steps)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.begun = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ended = time.monotonic()
        self.progress.update("training the policy", state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "reward" not in logs:
            return
        values = {ours: logs[theirs] for theirs, ours in METRICS.items() if logs.get(theirs) is not None}
        if not all(math.isfinite(v) for v in values.values()):
            raise RuntimeError(f"step {state.global_step} gave a loss or reward that is not finite: {values}")
        own = ("utility/", "standardised/", "zero_variance/", "expected_level/")
        values |= {k: v for k, v in logs.items() if k.startswith(own) and v is not None}
        if "kl" in values:
            values["kl_sequence"] = values["kl"] * values["completion_tokens"]
        # Rollout: from the start of the step to the reward call, log-probabilities of policy and reference included.
        values["seconds/rollout"] = self.reward.started - self.begun
        values["seconds/reward"] = self.reward.finished - self.reward.started
        values["seconds/update"] = self.ended - self.reward.finished
        values["tokens_per_second"] = values["completion_tokens"] * args.generation_batch_size / max(self.ended - self.begun, 1e-9)
        self.progress.metrics(values, state.global_step)
