"""MODPO: a policy per operating point learns pairs of one preference, with the other rewards' difference as a margin (Zhou et al. 2024).

For weights w, the preference k with the largest says which answer of a pair is the better, and DPO learns it from
    (beta (d_1 - d_2) - sum_{j != k} w_j (r_j1 - r_j2)) / w_k,
d being log pi / pi_ref of an answer. Its optimum is that of RL on sum w_i r_i. Nothing is drawn: the pairs are those of a prompt's rated
answers. Ours: rewards are the reward model's, where the source has raters for k and policies trained by DPO for the others; k's labels
are soft, as this project's Online DPO has them.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from moslim_core.baselines import morlhf
from moslim_core.baselines.experts import ByOnlineDPO, Expert, by_online_dpo
from moslim_core.baselines.method import Array
from moslim_core.errors import UserError
from moslim_core.policy.optimisers import online_dpo
from moslim_core.policy.rated_answers import NoRatedAnswersError
from moslim_core.policy.rollouts import RolloutBatch
from moslim_core.policy.settings import PolicySettings
from moslim_core.registry import baseline
from moslim_core.settings_section import changed


def margin_losses(log_ratios: Tensor, rewards: Tensor, utilities: Tensor, weights: Tensor, beta: float) -> Tensor:
    """Losses (a, t) of a answers under t requests: of each the mean over the pairs that it is in.

    `log_ratios`: log pi / pi_ref of whole answers, (a, t); `rewards` (a, t): sum w_i r_i, less what an answer loses besides; `utilities`
    (a, t, m): r_i; `weights` (m,), whose sum is what a whole reward is worth in nats.
    """
    strength, k = weights.sum(), int(weights.argmax())
    margins = rewards - weights[k] * utilities[..., k]
    implied = (beta * log_ratios - margins) * strength / weights[k]
    return online_dpo.preference_losses(implied, strength * utilities[..., k], 1.0)


class MarginDPO(online_dpo.OnlineDPO):
    def loss(self, batch: RolloutBatch, log_probs: Tensor, values: Tensor | None) -> Tensor:
        ratios = online_dpo.log_ratios(batch, log_probs)
        weights = torch.tensor([self.mapping.settings.weights.get(name, 0.0) for name in self.mapping.schema.names], device=ratios.device)
        losses = partial(margin_losses, weights=weights, beta=self.beta)
        # What is not requested, a guard, has no utility, and no weight.
        return batch.pairs.by_table(losses, ratios, batch.rewards, batch.utilities.nan_to_num()).sum() / batch.rows


@baseline("modpo")
class MODPO(ByOnlineDPO, morlhf.MORLHF):
    rows = ("modpo",)

    @classmethod
    def training(cls, policy: PolicySettings) -> PolicySettings:
        return changed(super().training(policy), rated_answers=1.0)

    def train(self) -> None:
        try:
            super().train()
        except NoRatedAnswersError as error:
            raise UserError(
                "modpo learns from rated answers alone, and no training prompt has two that end within policy.max_new_tokens.\n"
                "Raise policy.max_new_tokens, or leave modpo out of --baselines: what has ended stays."
            ) from error

    def expert(self, weights: Array) -> Expert:
        expert = super().expert(weights)
        policy = changed(by_online_dpo(expert.settings.policy), rated_answers=1.0)
        expert.settings, expert.optimiser = changed(expert.settings, policy=policy), MarginDPO
        return expert
