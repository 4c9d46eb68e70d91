"""How fast each engine draws a step's answers from a policy with an adapter, in tokens per second, against the library's plain `generate`.

python benchmarks/engines.py [--rounds 2] [--base MODEL] [--prompts 4] [--group 4] [--tokens 32] [--vllm-url URL]

Engines take turns in one process on the same prompts; the first draw of each, which compiles, is not counted. `generate` draws from the
model with its adapter apart, as trainers do. An engine that can't serve the model says why.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from policy_step import QUESTIONS, processor

from moslim_core import models
from moslim_core.policy.engines import engine_class, engines
from moslim_core.policy.learner import Learner
from moslim_core.policy.settings import PolicySettings
from moslim_core.policy.shared_prefix import lay_out
from moslim_core.preferences import prompt_tokens
from moslim_core.sampling import generation_config

REQUESTS = ("Answer in a few words.", "Answer at length, and warmly.")


def by_generate(learner: Learner, config: Any) -> Callable[[list[list[int]]], int]:
    """The library's own loop over whole, padded prompts; tokens that count."""

    def draw(prompts: list[list[int]]) -> int:
        layout = lay_out(prompts, share=False)
        ids, mask = layout.ids.to(learner.device), layout.mask.to(learner.device)
        with torch.no_grad():
            new = learner.plain.eval().generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, ids.shape[1] :]
        return int((new != config.pad_token_id).sum())

    return draw


def by_engine(name: str, learner: Learner, policy: PolicySettings, config: Any) -> Callable[[list[list[int]]], int]:
    engine = engine_class(name)(learner, policy, config)
    return lambda prompts: sum(map(len, engine.draw(prompts).answers))


def main(options: argparse.Namespace, cache: Path) -> None:
    model, tokenizer = models.load_chat_model(options.base, cache)
    policy = PolicySettings(max_new_tokens=options.tokens, vllm_url=options.vllm_url)
    learner = Learner(model, policy)
    config = generation_config(models.end_tokens(model, tokenizer), tokenizer.pad_token_id, max_new_tokens=options.tokens)
    texts = [f"{QUESTIONS[n % len(QUESTIONS)]}\n\n{request}" for n in range(options.prompts) for request in REQUESTS]
    prompts = prompt_tokens(tokenizer, [[{"role": "user", "content": text}] for text in texts for _ in range(options.group)])
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    print(f"{len(prompts)} answers of at most {options.tokens} tokens, {options.base}, {model.dtype}, {where}", flush=True)
    draws = {"generate": by_generate(learner, config)}
    for name in engines():
        reason = "no --vllm-url" if name == "vllm" and not options.vllm_url else engine_class(name).unable(learner, policy)
        if reason is None:
            draws[name] = by_engine(name, learner, policy, config)
        else:
            print(f"  {name}: not run: {reason}", flush=True)
    speeds: dict[str, list[float]] = {name: [] for name in draws}
    for number in range(options.rounds + 1):
        for name, draw in draws.items():
            torch.manual_seed(number)
            begun = time.perf_counter()
            tokens = draw(prompts)
            if number:
                speeds[name].append(tokens / (time.perf_counter() - begun))
    for name, by_round in speeds.items():
        speed = statistics.median(by_round)
        print(f"  {name}: {speed:.0f} tokens/s, {speed / statistics.median(speeds['generate']):.2f}x of generate", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--group", type=int, default=4, help="answers per prompt and request")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--vllm-url")
    with tempfile.TemporaryDirectory() as folder:
        main(parser.parse_args(), Path(folder))
