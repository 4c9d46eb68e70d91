"""Rated rows of many prompts, and what the label stage made of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from moslim_core.data.rows import load_rows, prompt_key, read_json_lines
from moslim_core.errors import UserError

PREFERENCES = [{"name": "warmth", "levels": ["cold", "neutral", "warm"]}, {"name": "length", "levels": ["short", "long"]}]


def rated(prompts: int = 120, answers: int = 3, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {
            # The same prompt in another dress is the same prompt.
            "prompt": f"What about number {p}?" if a else f"what  about NUMBER {p}? ",
            "response": f"Answer {a} to {p}.",
            "warmth": rng.choice((1, 2, 3, None)),
            "length": rng.choice((1, 2)),
        }
        for p in range(prompts)
        for a in range(answers)
    ]


def keys(output: Path, split: str) -> set[str]:
    return {prompt_key(r.prompt) for r in load_rows(output / f"{split}.jsonl")}


def asked(output: Path, name: str) -> set[str]:
    return {prompt_key(v["prompt"]) for _, v in read_json_lines(output / f"prompts.{name}.jsonl")}


def disjoint(sets: list[set[str]]) -> bool:
    return sum(len(s) for s in sets) == len(set().union(*sets)) and all(sets)


def refused(run: Any, output: Path) -> str:
    with pytest.raises(UserError) as caught:
        run()
    assert len(str(caught.value).splitlines()) <= 3
    assert not output.exists()
    return str(caught.value)
