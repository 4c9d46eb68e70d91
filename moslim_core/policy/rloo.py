"""RLOO through TRL: leave-one-out baselines over groups of answers to the same conditioned prompt (Ahmadian et al. 2024).

What TRL has no part in: answers that count under other requests (relabelling.py) and tokens that count by themselves (credit.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from trl import RLOOConfig, RLOOTrainer

from moslim_core.policy import credit
from moslim_core.policy.advantages import policy_loss
from moslim_core.policy.relabelling import Pairs, advantages, alone, centred, pair
from moslim_core.policy.reward_function import PolicyReward
from moslim_core.policy.rollouts import SharedPrefixRollouts
from moslim_core.policy.setup import Setup


class SharedPrefixRLOOTrainer(SharedPrefixRollouts, RLOOTrainer):
    """TRL's RLOO with what prompts share computed once; ours are advantages with `relabel` or `per_token`.

    Where one update of one batch follows on its answers, the pass that says how probable they are is also the update's: the policy
    is the same, so TRL's second pass would give the same numbers.
    """

    wanted = False
    pairs: Pairs | None = None

    def __init__(self, reward: PolicyReward, relabel: bool, per_token: bool, **options: Any) -> None:
        super().__init__(reward_funcs=cast(Any, reward), **options)
        self.reward, self.relabel, self.per_token = reward, relabel, per_token
        # Log-probabilities of the answers at hand: the policy's, then the reference's.
        self.passes: list[torch.Tensor] = []

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.wanted, self.at_hand = self._once(), None
        self.passes = []
        if self.relabel or self.per_token:
            self.pairs = (pair if self.relabel else alone)(inputs)
        scored = super()._generate_and_score_completions(inputs)
        if self.pairs is not None:
            scored = self._ours(scored, self.pairs, [row["question"] for row in inputs])
            self.pairs = None
        if self.at_hand is not None:
            # With the other tensors of the batch, so that they are shuffled alike.
            scored["log_probs"], scored["entropies"] = self.at_hand
            self.at_hand = None
        return scored

    def _ours(self, scored: dict[str, Any], pairs: Pairs, questions: list[str]) -> dict[str, Any]:
        """The batch as pairs of answers and requests with our advantages. The KL term is that under an answer's own request."""
        policy, *reference = self.passes
        mask = scored["completion_mask"]
        batch = pairs.expand(scored)
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
        weight = pairs.weights(log_probs, batch["completion_mask"])
        self._metrics["train"]["own_weight"].append(weight[pairs.own].mean().item())
        rewards = self.reward.under(pairs).to(policy)
        divergence = sum(((policy - frozen) * mask for frozen in reference), torch.zeros_like(policy))
        if self.per_token:
            # What is left of the divergence at a token is what it can still change.
            left = divergence.flip(1).cumsum(dim=1).flip(1)
            returns = self._returns(scored, pairs, questions, rewards, weight) - self.beta * left[pairs.answers]
            weight, kept = weight.unsqueeze(1).expand_as(returns), batch["completion_mask"]
        else:
            returns, kept = rewards - self.beta * divergence.sum(dim=1)[pairs.answers], torch.ones_like(rewards)
        advantage = pairs.by_family(advantages, weight, returns) * kept
        if self.normalize_advantages:
            squares, count = self._total(torch.stack([(advantage**2 / weight.clamp(min=1e-6)).sum(), kept.sum()]))
            advantage = advantage / ((squares / count).sqrt() + 1e-4)
        old = log_probs if self.per_token else (log_probs * batch["completion_mask"]).sum(dim=1)
        return {**batch, "old_logps": old, "advantages": advantage}

    def _returns(
        self, scored: dict[str, Any], pairs: Pairs, questions: list[str], rewards: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        """Returns (n * t, c) of each token."""
        ids, width = scored["completion_ids"], cast(int, self.max_completion_length)
        # As if all answers were as long as they may be: processes must agree on places.
        read = cast(Callable[[list[int]], str], self.reward.read)
        columns = [list(map(read, ids[:, :place].tolist())) for place in credit.places(width)]
        foretold = self.reward.beginnings(pairs, questions, list(zip(*columns, strict=True))).to(rewards)
        kept = torch.nn.functional.pad(scored["completion_mask"], (0, width - ids.shape[1]))[pairs.answers]
        returns, noise = credit.credited(
            rewards,
            credit.spread(foretold, width),
            weight.unsqueeze(1) * kept,
            lambda *values: pairs.by_family(centred, *values),
            self._total,
        )
        tokens = self._total(kept.sum(dim=0).to(noise))
        self._metrics["train"]["credit_noise"].append(((noise * tokens).sum() / tokens.sum()).item())
        return returns[:, : ids.shape[1]]

    def _total(self, local: torch.Tensor) -> torch.Tensor:
        """Over all processes."""
        return cast(torch.Tensor, self.accelerator.reduce(local, reduction="sum"))

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        if not self.per_token:
            return super()._compute_loss(model, inputs)
        width, mask = inputs["completion_ids"].shape[1], inputs["completion_mask"]
        if "log_probs" in inputs:
            log_probs, entropies = inputs["log_probs"], inputs["entropies"]
        else:
            ids, kept = (torch.cat([inputs[f"prompt_{k}"], inputs[f"completion_{k}"]], dim=1) for k in ("ids", "mask"))
            log_probs, entropies, _ = self._get_per_token_logps_and_entropies(model, ids, kept, width, compute_entropy=True)
        entropy, tokens = self._total(torch.stack([(entropies * mask).sum(), mask.sum().to(entropies)]))
        self._metrics["train"]["entropy"].append((entropy / tokens.clamp(min=1)).item())
        # As of whole answers: a sum over tokens, a mean over answers.
        answers = torch.tensor(len(mask), device=mask.device)
        return policy_loss(log_probs, inputs["old_logps"], inputs["advantages"], mask, self.epsilon_low, answers)

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
        log_probs, entropies, aux = super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **extra
        )
        if not torch.is_grad_enabled():
            self.passes.append(log_probs)
        return log_probs, entropies, aux


def trainer(setup: Setup) -> Any:
    """TRL's RLOO on the setup."""
    policy = setup.policy
    return SharedPrefixRLOOTrainer(
        reward=setup.reward,
        relabel=policy.relabel,
        per_token=policy.credit == "token",
        args=RLOOConfig(
            **setup.group_arguments(),
            normalize_advantages=policy.normalise_advantages,
        ),
        **setup.trainer_options(),
    )
