"""SteerLM 2: one policy reads levels, and learns P(y | a, x), which is as P(a | x, y) P(y | x) (HelpSteer2, Wang et al. 2024).

The reward model says how probable the levels a are of an answer y to x. A step has some answers to a prompt under a request. Of these the
share w of one should be softmax(log P(a | x, y)), its share b is softmax(log Q(y | a, x) - log P(y | x)) where answers were drawn from
P, and the gradient sum (w - b) grad log Q is that of the cross-entropy of b against w. Ours: P(y | x) is the starting model's under the
same prompt, which hardly heeds the request; rated answers, whoever wrote them, count as drawn from it; and the policy starts there, where
the source has trained it on labelled answers before. The source was read in its documentation and summaries, not in full.
"""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from moslim_core.baselines.experts import ByOnlineDPO, OnePolicy, TrainedPolicy
from moslim_core.baselines.method import ByInstruction
from moslim_core.policy.conditioning import training_examples
from moslim_core.policy.optimisers import online_dpo
from moslim_core.policy.rollouts import RolloutBatch
from moslim_core.policy.settings import PolicySettings
from moslim_core.registry import baseline
from moslim_core.reward.settings import MappingSettings
from moslim_core.settings_section import changed


def share_losses(log_ratios: Tensor, log_likelihoods: Tensor) -> Tensor:
    """Losses (a, t) of a answers under t requests, which sum to a times each request's cross-entropy in nats.

    `log_ratios`: log Q(y | a, x) - log P(y | x) of whole answers, (a, t); `log_likelihoods`: log P(a | x, y), (a, t).
    """
    return -log_likelihoods.softmax(dim=0) * log_ratios.log_softmax(dim=0) * len(log_ratios)


class LevelMatching(online_dpo.OnlineDPO):
    def loss(self, batch: RolloutBatch, log_probs: Tensor, values: Tensor | None) -> Tensor:
        losses = batch.pairs.by_table(share_losses, online_dpo.log_ratios(batch, log_probs), batch.rewards)
        return losses.sum() / batch.rows


@baseline("steerlm2")
class SteerLM2(ByOnlineDPO, OnePolicy, ByInstruction):
    rows = ("steerlm2",)

    @classmethod
    def training(cls, policy: PolicySettings) -> PolicySettings:
        # Not centred: the target takes likelihoods as they are.
        return changed(super().training(policy), centred=False)

    @cached_property
    def policy(self) -> TrainedPolicy:
        settings = self.context.settings
        likelihood = MappingSettings(utility="log_probability", standardisation="none", aggregation="sum")
        own = changed(settings, policy=self.training(settings.policy), mapping=likelihood)
        return TrainedPolicy(self.context, self.rows[0], own, training_examples, LevelMatching)
