"""A vLLM server that serves the base, in an environment of its own: it gets the adapter after every update, and draws under it.

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=true vllm serve BASE --enable-lora --max-lora-rank RANK --logprobs-mode processed_logprobs

By default its log-probabilities would be those before the temperature. The adapter goes through a folder that the server must be able to
read, so it is on this machine, or shares a disk with it. Its probabilities are not quite the policy's: answers are weighted by the ratio
(rows' importance, cut off as TRL does).
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import torch

from moslim_core.errors import UserError
from moslim_core.policy.artifact import ADAPTER
from moslim_core.policy.engines import Drawn, Engine
from moslim_core.policy.learner import Learner
from moslim_core.policy.settings import PolicySettings
from moslim_core.policy.shared_prefix import cut_at_ends
from moslim_core.registry import engine
from moslim_core.training.distributed import is_first, parts, wait

# A step's answers may take minutes; a connection that is not there is told at once.
START = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=true vllm serve BASE --enable-lora --max-lora-rank RANK --logprobs-mode processed_logprobs"
TIMEOUT = httpx.Timeout(600.0, connect=5.0)


@engine("vllm")
class VLLMEngine(Engine):
    def __init__(self, learner: Learner, policy: PolicySettings, config: Any) -> None:
        """Raises UserError where no server answers."""
        super().__init__(learner, policy, config)
        self.server = httpx.Client(base_url=str(policy.vllm_url).removesuffix("/v1").rstrip("/"), timeout=TIMEOUT)
        # One that every process names alike, and no other training on the same server does.
        self.folder = Path(parts(tempfile.mkdtemp(prefix="moslim-adapter-") if is_first() else "")[0])
        if is_first():
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.versions = itertools.count(1)
        self.loaded: str | None = None
        self._ask("GET", "/v1/models")

    def draw(self, prompts: Sequence[list[int]]) -> Drawn:
        name, seed = self._hand_over(), int(torch.randint(2**31, ()))
        # The server seeds each prompt of a call alike: one that is there twice would get the same answer twice.
        places: dict[tuple[int, ...], list[int]] = {}
        for place, ids in enumerate(prompts):
            places.setdefault(tuple(ids), []).append(place)
        calls: dict[int, list[tuple[int, ...]]] = {}
        for prompt, same in places.items():
            calls.setdefault(len(same) if self.config.do_sample else 1, []).append(prompt)
        choice_of: dict[int, Any] = {}
        for count, distinct in calls.items():
            choices = self._complete(name, distinct, count, seed)
            for number, prompt in enumerate(distinct):
                # Without sampling one answer is that of all.
                own = itertools.cycle(choices[number * count : (number + 1) * count])
                choice_of |= dict(zip(places[prompt], own, strict=False))
        answers = cut_at_ends([choice_of[place]["token_ids"] for place in range(len(prompts))], self.config.eos_token_id)
        chances = [choice_of[place]["logprobs"]["token_logprobs"][: len(answer)] for place, answer in enumerate(answers)]
        return Drawn(answers, chances)

    def _complete(self, name: str, prompts: Sequence[tuple[int, ...]], count: int, seed: int) -> list[Any]:
        """`count` answers to each of the distinct prompts, prompt by prompt."""
        body = {
            "model": name,
            "prompt": [list(prompt) for prompt in prompts],
            "n": count,
            "max_tokens": self.config.max_new_tokens,
            "temperature": self.config.temperature if self.config.do_sample else 0.0,
            # The model's own settings would change what is learnt from.
            "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0,
            "stop_token_ids": list(self.config.eos_token_id),
            "seed": seed,
            "logprobs": 0,
            "return_token_ids": True,
        }  # fmt: skip
        choices = sorted(self._ask("POST", "/v1/completions", body)["choices"], key=lambda choice: choice["index"])
        if len(choices) != count * len(prompts) or any(not choice.get("token_ids") for choice in choices):
            raise UserError(f"policy.vllm_url={self.policy.vllm_url}: the server gives no token ids.\nServe with vLLM 0.10.2 or later.")
        return choices

    def _hand_over(self) -> str:
        """The server's name for the adapter as it is now."""
        name = f"{self.folder.name}-{next(self.versions)}"
        adapter = self.learner.adapter(mean=False)
        if is_first():
            self.learner.plain.save_pretrained(self.folder / name, selected_adapters=[ADAPTER], state_dict=adapter)
            self._ask("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(self.folder / name)})
            if self.loaded is not None:
                self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": self.loaded})
                shutil.rmtree(self.folder / self.loaded, ignore_errors=True)
        wait()
        self.loaded = name
        return name

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            reply = self.server.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise UserError(
                f"policy.vllm_url={self.policy.vllm_url}: no answer ({type(error).__name__}).\nStart the server: {START}"
            ) from error
        if reply.is_error:
            raise UserError(f"policy.vllm_url={self.policy.vllm_url}: {path} was refused ({reply.status_code}): {reply.text[:200]}")
        return reply.json() if "json" in reply.headers.get("content-type", "") else reply.text
