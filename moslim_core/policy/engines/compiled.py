"""`generate` on a cache of fixed size, its decoding step compiled into one graph of kernels, for GPUs.

There starting a kernel takes longer than its work.
transformers compiles the step by itself where the cache is static and the device is a GPU. Shapes must stay: prompts are padded to a
multiple of `STEP` tokens, and all answers of a step are drawn together.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from moslim_core.policy.engines import Drawn, Engine
from moslim_core.policy.learner import Learner
from moslim_core.policy.settings import PolicySettings
from moslim_core.policy.shared_prefix import can_share, cut_at_ends, lay_out
from moslim_core.registry import engine

STEP = 64


@engine("compiled")
class CompiledEngine(Engine):
    @classmethod
    def unable(cls, learner: Learner, policy: PolicySettings) -> str | None:
        if learner.device.type != "cuda":
            return f"it needs a CUDA GPU, and the policy is on {learner.device.type}"
        if not can_share(learner.plain):
            return f"{learner.plain.config.model_type} models have no cache of fixed size"
        return None

    def draw(self, prompts: Sequence[list[int]]) -> Drawn:
        model = self.learner.to_draw().eval()
        plain = lay_out(prompts, share=False)
        more = -plain.ids.shape[1] % STEP
        ids, mask = (F.pad(tensor, (more, 0)).to(self.learner.device) for tensor in (plain.ids, plain.mask))
        config = copy.deepcopy(self.config)
        config.cache_implementation = "static"
        with torch.no_grad():
            output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        return Drawn(cut_at_ends(output[:, ids.shape[1] :].tolist(), self.config.eos_token_id))
