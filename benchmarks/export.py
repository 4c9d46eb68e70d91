"""Do a policy's exports answer as the policy does? Greedy answers and logits of what `moslim export` wrote, beside the adapter's.

python benchmarks/export.py POLICY [--questions 20] [--work-dir .moslim]

All in float32 on the CPU: `--to merged`, opened by transformers alone, its own chat template writing the instruction; and `--to gguf`, for
the architectures that it takes, read again by transformers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from moslim_core.export.gguf_file import FILE
from moslim_core.policy.steerable import SteerablePolicy

THINGS = ("bread", "rain", "a good friend", "chess", "the moon", "a long walk", "honey", "an old map", "winter", "tea")
TOKENS = 48


def exported(to: str, options: argparse.Namespace, output: Path) -> Path:
    command = [sys.executable, "-m", "flows.cli", "export", "--to", to, "--policy", options.policy, "--dtype", "float32"]
    subprocess.run([*command, "--output", str(output), "--work-dir", options.work_dir], check=True, stdout=subprocess.DEVNULL)
    return output


def main(options: argparse.Namespace, folder: Path) -> None:
    policy = SteerablePolicy.from_pretrained(options.policy, Path(options.work_dir) / "cache", "float32", "cpu")
    # In turn each level of each preference alone, and nothing.
    requests: list[dict[str, int]] = [{}, *({p.name: level} for p in policy.card.preferences.preferences for level in range(1, p.k + 1))]
    asked = [
        (f"Tell me about {THINGS[n % len(THINGS)]}{'.' if n < len(THINGS) else ', please.'}", requests[n % len(requests)])
        for n in range(options.questions)
    ]
    wanted = policy.chat_batch([q for q, _ in asked], [t for _, t in asked], temperature=0, max_new_tokens=TOKENS)
    merged = exported("merged", options, folder / "merged")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32), AutoTokenizer.from_pretrained(merged)
    read: list[Any] = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": q}], preferences=t, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        for q, t in asked
    ]
    with torch.inference_mode():
        drawn = [model.generate(**ids, do_sample=False, max_new_tokens=TOKENS)[0, ids["input_ids"].shape[1] :] for ids in read]
        texts = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in drawn]
        equal = sum(text == answer.text for text, answer in zip(texts, wanted, strict=True))
        print(
            f"{options.policy}\n  merged: {equal} of {len(asked)} greedy answers are the adapter's, {len(set(texts))} of them distinct",
            flush=True,
        )
        again = AutoModelForCausalLM.from_pretrained(exported("gguf", options, folder / "gguf"), gguf_file=FILE, dtype=torch.float32)
        apart = max(float((again(**ids).logits - model(**ids).logits).abs().max()) for ids in read)
    print(f"  gguf, {model.config.model_type}: logits at most {apart:.1e} from the merged folder's over {len(asked)} prompts")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", help="a policy's folder")
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--work-dir", default=".moslim", help="where the policy's base is known")
    with tempfile.TemporaryDirectory() as made:
        main(parser.parse_args(), Path(made))
