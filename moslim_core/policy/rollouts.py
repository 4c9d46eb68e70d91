"""What TRL's group trainers (RLOO, GRPO, and PPO on top of it) leave to this project: prompts' tokens, answers, how probable they are."""

from __future__ import annotations

from typing import Any, cast

import torch

from moslim_core.policy.shared_prefix import completion_log_probs, first_broken, generate_completions, unpadded
from moslim_core.preferences import prompt_tokens


class SharedPrefixRollouts:
    """Mix-in before a TRL trainer: generation and log-probabilities with what prompts share computed once.

    Sharded weights take TRL's own way, as do log-probabilities of several processes: wrapped models (DDP, FSDP) expect one
    forward per backward.
    """

    # A pass over the answers at hand with its graph, (log-probabilities, entropies), that the update is to take in place of its own.
    at_hand: tuple[torch.Tensor, torch.Tensor | None] | None = None

    args: Any
    accelerator: Any
    num_iterations: int
    model: Any
    processing_class: Any
    generation_config: Any
    temperature: float
    state: Any
    use_vllm: bool
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool

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
            (given, given_entropies), self.at_hand = self.at_hand, None
            return given, given_entropies, None
        if self.accelerator.num_processes > 1 or any(v is not None and v is not False for v in extra.values()):
            return cast(Any, super())._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **extra
            )
        parts = [
            completion_log_probs(
                model,
                unpadded(ids[:, :-logits_to_keep], mask[:, :-logits_to_keep]),
                ids[:, -logits_to_keep:],
                mask[:, -logits_to_keep:],
                self.temperature,
                compute_entropy,
                share=not self.args.gradient_checkpointing,
            )
            for ids, mask in zip(
                input_ids.split(batch_size or len(input_ids)), attention_mask.split(batch_size or len(input_ids)), strict=True
            )
        ]
        log_probs = torch.cat([part.log_probs for part in parts])
        self._require_finite(log_probs, input_ids, attention_mask, logits_to_keep)
        return log_probs, torch.cat([cast(torch.Tensor, part.entropies) for part in parts]) if compute_entropy else None, None

    def _once(self) -> bool:
        """Whether one update with the whole batch follows on its answers, so that the pass that says how probable they are can be its."""
        return self.num_iterations == self.args.steps_per_generation == self.accelerator.num_processes == 1 and torch.is_grad_enabled()

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        if "log_probs" in inputs:
            self.at_hand = inputs["log_probs"], inputs["entropies"]
        return cast(Any, super())._compute_loss(model, inputs)

    def _require_finite(self, log_probs: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int) -> None:
        """Raises RuntimeError naming the first row whose answer has no finite probability."""
        row = first_broken(log_probs, attention_mask[:, -logits_to_keep:])
        if row is not None:
            text = self.processing_class.decode(input_ids[row][attention_mask[row].bool()], skip_special_tokens=True)
            raise RuntimeError(
                f"step {self.state.global_step + 1}: the policy gives no finite probability to this prompt and answer: {text!r}.\n"
                "Lower policy.learning_rate; the last checkpoint is kept."
            )

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        # TRL's own reads a special token wherever a user wrote one.
        return prompt_tokens(self.processing_class, prompts), None, {}

    def _generate_single_turn(self, prompt_ids: list[list[int]], images: Any, multimodal_fields: dict[str, Any], *more: Any) -> Any:
        # Sharded weights are gathered by TRL's own way; replicated ones are all here.
        if self.use_vllm or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return cast(Any, super())._generate_single_turn(prompt_ids, images, multimodal_fields, *more)
        return generate_completions(self.accelerator.unwrap_model(self.model), prompt_ids, self.generation_config)
