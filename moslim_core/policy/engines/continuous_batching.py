"""transformers' continuous batching: a paged cache, in which an answer that has ended makes room for the next."""

from __future__ import annotations

from collections.abc import Sequence

from moslim_core.policy.engines import Drawn, Engine
from moslim_core.policy.learner import Learner
from moslim_core.policy.shared_prefix import can_share, cut_at_ends
from moslim_core.settings import PolicySettings


class Drawing(Engine):
    @classmethod
    def unable(cls, learner: Learner, policy: PolicySettings) -> str | None:
        if learner.sharded:
            return "weights are shared out among processes"
        if not can_share(learner.plain):
            return f"it has no paged cache for {learner.plain.config.model_type} models"
        return None

    def draw(self, prompts: Sequence[list[int]]) -> Drawn:
        found = self.learner.to_draw().generate_batch([list(p) for p in prompts], generation_config=self.config)
        answers = [result.generated_tokens for _, result in sorted(found.items(), key=lambda item: int(item[0].rpartition("_")[2]))]
        return Drawn(cut_at_ends(answers, self.config.eos_token_id))
