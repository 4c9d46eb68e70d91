"""transformers' continuous batching: a paged cache, in which an answer that has ended makes room for the next."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import ContinuousBatchingConfig

from moslim_core.policy.engines import Drawn, Engine
from moslim_core.policy.learner import Learner
from moslim_core.policy.settings import PolicySettings
from moslim_core.policy.shared_prefix import can_share, cut_at_ends
from moslim_core.registry import engine

# Tokens of a page of the cache. By itself the cache would take most of the memory that is free, at every step anew.
PAGE = 256
# Tokens that go through the model at once.
PASS = 2048


@engine("continuous_batching")
class ContinuousBatchingEngine(Engine):
    @classmethod
    def unable(cls, learner: Learner, policy: PolicySettings) -> str | None:
        if not can_share(learner.plain):
            return f"it has no paged cache for {learner.plain.config.model_type} models"
        return None

    def draw(self, prompts: Sequence[list[int]]) -> Drawn:
        pages = sum(-(-(len(p) + self.config.max_new_tokens) // PAGE) for p in prompts)
        room = ContinuousBatchingConfig(page_size=PAGE, num_blocks=pages, max_batch_tokens=max(PASS, len(prompts)))
        outputs = self.learner.to_draw().generate_batch(
            [list(p) for p in prompts], generation_config=self.config, continuous_batching_config=room
        )
        answers = [result.generated_tokens for _, result in sorted(outputs.items(), key=lambda item: int(item[0].rpartition("_")[2]))]
        return Drawn(cut_at_ends(answers, self.config.eos_token_id))
