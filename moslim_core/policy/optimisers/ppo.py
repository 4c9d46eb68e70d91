"""PPO (Schulman et al. 2017; TRL removed its own in 1.13): a critic, advantages per token, clipped losses, a KL penalty per token.

The critic is a head on the policy's own last hidden state, whose gradient stays in the head: no second model, no second pass. Not covered:
minibatches within a step (an update uses all of it), value functions with weights of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from moslim_core.policy.advantages import estimate, steer, token_rewards, value_loss, whiten
from moslim_core.policy.optimisers import Optimiser, with_advantages
from moslim_core.policy.optimisers.rloo import token_loss
from moslim_core.policy.relabelling import centred
from moslim_core.policy.rollouts import RolloutBatch
from moslim_core.policy.settings import PolicySettings
from moslim_core.registry import optimiser
from moslim_core.training.distributed import total


class Critic(nn.Module):
    """Hidden states (n, t, d) -> values (n, t) in units of reward; 0 everywhere before it has learnt."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Hidden states (..., d) -> values (...)."""
        return self.linear(self.norm(states.detach().float())).squeeze(-1)


@optimiser("ppo")
class PPO(Optimiser):
    critic = Critic

    @classmethod
    def unfit(cls, policy: PolicySettings) -> str | None:
        return "its critic credits tokens already: set credit=answer" if policy.credit == "token" else None

    def prepared(self, batch: RolloutBatch) -> tuple[RolloutBatch, dict[str, float]]:
        assert batch.values is not None
        settings, mask = self.policy.ppo, batch.mask.float()
        # A critic of few batches can't predict what prompts earn, so the mean of a request's answers is subtracted first.
        scores = batch.pairs.by_table(centred, batch.weight, batch.rewards)
        coefficient = self.beta if self.kl == "reward" else 0.0
        rewards = token_rewards(scores, batch.divergence, mask, coefficient)
        advantages, returns = estimate(rewards, batch.values, mask, settings.discount, settings.gae_lambda)
        if self.policy.normalise_advantages:
            advantages = whiten(advantages, mask, total)
        off = total((((batch.values - returns) ** 2) * mask).sum().double())
        figures = {"explained_variance": self._explained(batch, returns), "value_loss": 0.5 * float(off) / batch.tokens}
        if self.beta:
            figures["kl_coefficient"] = self.beta
            if settings.kl_target is not None:
                home = batch.pairs.home.unique()
                nats, answers = total(torch.tensor([float(batch.divergence[home].sum()), len(home)], dtype=torch.float64)).tolist()
                self.beta = steer(self.beta, nats / answers, settings.kl_target)
        return with_advantages(batch, advantages * batch.weight.unsqueeze(1), returns), figures

    def loss(self, batch: RolloutBatch, log_probs: Tensor, values: Tensor | None) -> Tensor:
        assert values is not None and batch.values is not None
        surrogate = token_loss(log_probs, batch.old, batch.advantages, batch.mask, self.policy.clip, batch.tokens)
        settings = self.policy.ppo
        critic = value_loss(values, batch.values, batch.returns, batch.mask, settings.value_clip, batch.tokens)
        return surrogate + settings.value_weight * critic + self.penalty(batch, log_probs).sum() / batch.tokens

    def _explained(self, batch: RolloutBatch, returns: Tensor) -> float:
        """Share of the returns' variance over own rows that the critic foretold."""
        assert batch.values is not None
        own_tokens = batch.mask.bool() & batch.pairs.own.to(batch.mask.device).unsqueeze(1)
        spread, left = (x[own_tokens].double() for x in (returns, returns - batch.values))
        sums = total(torch.stack([spread.sum(), (spread**2).sum(), left.sum(), (left**2).sum(), own_tokens.sum().double()]))
        r, r2, d, d2, n = sums.tolist()
        variance = r2 / n - (r / n) ** 2 if n else 0.0
        return 1 - (d2 / n - (d / n) ** 2) / variance if variance > 0 else 0.0

    def state(self) -> dict[str, Any]:
        return {"kl_coefficient": self.beta}

    def load_state(self, state: dict[str, Any]) -> None:
        self.beta = state["kl_coefficient"]
