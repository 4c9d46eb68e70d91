"""Many users of one `moslim serve` at once: what is lost, what is mixed up, and how much faster it is than one after the other.

python benchmarks/serve.py [POLICY] [--users 50] [--seconds 60] [--tokens 48] [--work-dir .moslim]

A server is started on loopback. First every question is answered alone, one after the other; then all users ask at once, again and again,
every second of them a stream. An answer is lost where there is none, and mixed up where it is not the one that its question has alone:
questions, targets and lengths differ, and answers are greedy or have a seed. One that is nobody's answer alone, and begins like its own,
took another way at a token, as products in a batch are rounded otherwise. Without POLICY a tiny random model answers. At last the server is
killed while all wait, and started again: each user must meet an error of the client's own, and then an answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import openai

ROOT = Path(__file__).parents[1]
WORDS = "bread rain shoes sky bicycle snow tea garden music river".split()
PREFERENCES = [{"name": "verbosity", "levels": ["short", "medium", "long"]}, {"name": "warmth", "levels": ["cold", "neutral", "warm"]}]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Answered(NamedTuple):
    text: str
    tokens: int


def tiny_policy(folder: Path) -> Path:
    """A policy of random weights, whose base is in its folder; answers depend on every token of the prompt."""
    import torch
    from peft import get_peft_model
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from moslim_core.models.identity import identify
    from moslim_core.policy.artifact import BASE
    from moslim_core.training.adapters import adapter_config

    specials = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate([*specials, *letters])}, merges=[]))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.add_special_tokens(specials)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=512, initializer_range=0.2, pad_token_id=0, bos_token_id=None, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for part in (model, tokenizer):
        part.save_pretrained(folder / BASE)
    get_peft_model(model, adapter_config(model, 2, None, "CAUSAL_LM")).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    base = identify(str(folder / BASE), folder / "cache").id.model_copy(update={"name": BASE})
    card = {
        "base": base.model_dump(), "preferences": PREFERENCES, "placement": "user_suffix", "optimiser": "rloo", "steps": 1,
        "max_new_tokens": 48, "mapping": {}, "mapping_state": {}, "held_out": [],
    }  # fmt: skip
    (folder / "moslim_policy.json").write_text(json.dumps(card))
    return folder


@contextmanager
def server(policy: Path, work_dir: Path, port: int = 0, which: str = "serve") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """(its process, its address), once `moslim serve`, or `which`, serves; killed at the end if it still lives."""
    command = [sys.executable, "-m", "flows.cli", which, "--policy", str(policy), "--port", str(port), "--work-dir", str(work_dir)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert process.stdout is not None
    said = ""
    try:
        for line in process.stdout:
            said += line
            if line.startswith("Ctrl-C"):
                break
        match = re.search(r"(http://127\S+)", said)
        assert match, said
        yield process, match[1]
    finally:
        process.kill()
        process.communicate()


def questions(schema: Any, count: int, tokens: int) -> list[dict[str, Any]]:
    """Different ones: words, targets, length, and greedy or drawn with a seed; those side by side differ in their targets alone."""
    requests = []
    for number in range(count):
        targets = {p["name"]: p["levels"][number // 3**place % len(p["levels"])] for place, p in enumerate(schema)}
        requests.append(
            {
                "model": "moslim",
                "messages": [{"role": "user", "content": f"Tell me about {WORDS[number // 9 % len(WORDS)]}, part {number // 90}."}],
                "extra_body": {"preferences": targets},
                "max_tokens": max(1, tokens - number % 4),
                **({"temperature": 0.0} if number % 3 else {"temperature": 1.0, "seed": number}),
            }
        )
    return requests


async def ask(client: openai.AsyncOpenAI, question: dict[str, Any], stream: bool) -> Answered:
    if not stream:
        completion = await client.chat.completions.create(**question)
        return Answered(completion.choices[0].message.content, completion.usage.completion_tokens)
    text, tokens = "", 0
    async for chunk in await client.chat.completions.create(**question, stream=True, stream_options={"include_usage": True}):
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
    return Answered(text, tokens)


async def measured(url: str, users: int, seconds: float, tokens: int) -> dict[str, float]:
    """Figures of one server: answers, lost and mixed-up ones, tokens per second alone and together, and their ratio."""
    async with openai.AsyncOpenAI(base_url=url, api_key=os.environ.get("MOSLIM_SERVE_API_KEY", "none"), max_retries=0) as client:
        (model, *_) = (await client.models.list()).data
        schema = [{"name": name, "levels": [int(level) for level in levels]} for name, levels in model.preferences.items()]  # type: ignore[attr-defined]
        requests = questions(schema, users, tokens)
        await ask(client, requests[0], False)
        begun = time.perf_counter()
        alone = [await ask(client, question, number % 2 == 0) for number, question in enumerate(requests)]
        alone_speed = sum(answer.tokens for answer in alone) / (time.perf_counter() - begun)
        texts = {answer.text for answer in alone}
        counts: Counter[str] = Counter()
        alike: list[int] = []
        begun = time.perf_counter()

        async def user(number: int) -> None:
            turn = 0
            while time.perf_counter() - begun < seconds:
                which = (number + 7 * turn) % len(requests)
                turn += 1
                try:
                    answer = await ask(client, requests[which], (number + turn) % 2 == 0)
                except openai.OpenAIError as error:
                    print(f"lost: {error}", flush=True)
                    counts["lost"] += 1
                    continue
                counts["answers"] += 1
                counts["tokens"] += answer.tokens
                if answer.text != alone[which].text:
                    counts["of_others" if answer.text in texts else "different"] += 1
                    both = zip(answer.text.split(), alone[which].text.split(), strict=False)
                    alike.append(sum(1 for _ in takewhile(lambda words: words[0] == words[1], both)))

        await asyncio.gather(*map(user, range(users)))
        together_speed = counts["tokens"] / (time.perf_counter() - begun)
    return {
        "answers": counts["answers"],
        "lost": counts["lost"],
        "of_others": counts["of_others"],
        "different": counts["different"],
        "alike": min(alike, default=0),
        "distinct": len(texts) / len(requests),
        "alone": alone_speed,
        "together": together_speed,
        "ratio": together_speed / alone_speed,
    }


async def killed(process: subprocess.Popen[str], url: str, users: int) -> Counter[str]:
    """How what all users wait for ends when the server is killed: the client's errors by name."""
    long = {"model": "moslim", "messages": [{"role": "user", "content": "Tell me all."}], "temperature": 0, "max_tokens": 300}
    async with openai.AsyncOpenAI(base_url=url, api_key=os.environ.get("MOSLIM_SERVE_API_KEY", "none"), max_retries=0) as client:
        waiting = [asyncio.ensure_future(ask(client, long, number % 2 == 0)) for number in range(users)]
        await asyncio.sleep(0.5)
        process.kill()
        ends = await asyncio.gather(*waiting, return_exceptions=True)
    return Counter(type(end).__name__ for end in ends)


def main(options: argparse.Namespace, folder: Path) -> None:
    policy = Path(options.policy) if options.policy else tiny_policy(folder / "policy")
    work_dir = Path(options.work_dir) if options.policy else folder / "work"
    with server(policy, work_dir) as (process, url):
        stats = asyncio.run(measured(url, options.users, options.seconds, options.tokens))
        which = options.policy or "a tiny model"
        print(f"{options.users} users for {options.seconds:g} s, answers of at most {options.tokens} tokens, {which}")
        print(
            f"  {stats['answers']} answers; lost {stats['lost']}; of other questions {stats['of_others']}; different {stats['different']}"
            + (f", which begin alike for {stats['alike']} words or more" if stats["different"] else "")
        )
        print(f"  {stats['alone']:.0f} tokens/s one after the other, {stats['together']:.0f} together: {stats['ratio']:.2f}x", flush=True)
        ends = asyncio.run(killed(process, url, options.users))
        print("  killed while all wait: " + ", ".join(f"{count} {name}" for name, count in ends.items()), flush=True)
    begun = time.perf_counter()
    with server(policy, work_dir, int(url.rsplit(":", 1)[1].split("/")[0])) as (process, url):
        client = openai.OpenAI(base_url=url, api_key=os.environ.get("MOSLIM_SERVE_API_KEY", "none"))
        client.chat.completions.create(model="moslim", messages=[{"role": "user", "content": "Hello"}])
        print(f"  started again at the same address, first answer after {time.perf_counter() - begun:.0f} s", flush=True)
        begun = time.perf_counter()
        process.send_signal(signal.SIGINT)
        print(f"  Ctrl-C: exit code {process.wait(30)} after {time.perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", nargs="?", help="a policy's folder; default: a tiny random model")
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--work-dir", default=".moslim", help="where the policy's base is known")
    with tempfile.TemporaryDirectory() as made:
        main(parser.parse_args(), Path(made))
