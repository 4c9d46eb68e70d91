"""Plain `generate`, with the prompts' common parts read once: the engine of CPUs, and of every model."""

from __future__ import annotations

from collections.abc import Sequence

from moslim_core.policy.engines import Drawn, Engine
from moslim_core.policy.shared_prefix import generate_completions
from moslim_core.registry import engine


@engine("transformers")
class TransformersEngine(Engine):
    def draw(self, prompts: Sequence[list[int]]) -> Drawn:
        return Drawn(generate_completions(self.learner.to_draw(), prompts, self.config, together=self.learner.sharded))
