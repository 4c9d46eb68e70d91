"""The starter set: prompts written for this project, answers sampled from the packaged model, labels by rules.

`moslim data build-starter` runs `build`; its output ships beside this file, so a first run needs no sampling. In float32 the same
seed gives the same rows, but for rounding: on another kind of CPU one answer of 4,800 came out differently.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from moslim_core.data.annotators import annotate_all
from moslim_core.policy.generation import Sampling, generate
from moslim_core.preferences import PreferenceSchema

HERE = Path(__file__).parent
PROMPTS = HERE / "prompts.txt"
ROWS = HERE / "rows.jsonl.gz"


class Style(NamedTuple):
    """A wish added to the prompt while sampling, so that answers spread over the levels; it is not kept in the row."""

    wish: str
    max_new_tokens: int
    temperature: float


WARM = "Be warm, cheerful and encouraging. Say how wonderful this is!"
COLD = "Be cold and grumpy. Complain about how bad, sad and boring this is."

# Caps spread the lengths, as a small model seldom ends an answer early; none is longer than the demo's answers.
STYLES = (
    Style("", 16, 1.0),
    Style("", 8, 1.0),
    Style("Answer in at most five words.", 4, 1.0),
    Style("Answer in at most five words.", 6, 1.0),
    Style(WARM, 16, 1.0),
    Style(WARM, 11, 1.0),
    Style(COLD, 16, 1.0),
    Style(COLD, 11, 1.0),
    Style("Use only short, simple words that a small child knows.", 14, 0.8),
    Style("Use advanced academic vocabulary and technical terminology.", 14, 0.8),
)
BATCH = 120


def prompts() -> list[str]:
    """The prompts of the starter set, in the file's order."""
    return PROMPTS.read_text(encoding="utf-8").splitlines()


def build(
    model: Any,
    tokenizer: Any,
    schema: PreferenceSchema,
    seed: int,
    limit: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[dict[str, Any]]:
    """One row per prompt and style: prompt, response, source and one level per preference with a rule."""
    chosen = prompts()[:limit]
    rng = random.Random(seed)
    for index, style in enumerate(STYLES):
        asked = [[{"role": "user", "content": f"{p} {style.wish}".strip()}] for p in chosen]
        answers = generate(
            model,
            tokenizer,
            asked,
            Sampling(style.max_new_tokens, style.temperature, BATCH),
            seed=rng.getrandbits(32),
            on_batch=partial(_advance, on_progress, index * len(chosen), len(STYLES) * len(chosen)),
        )
        for prompt, answer in zip(chosen, answers, strict=True):
            if answer.text:
                labels = annotate_all(answer.text, schema)
                yield {"prompt": prompt, "response": answer.text, "source": "starter", **labels}


def _advance(on_progress: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    on_progress(before + done, total)


def write(rows: Iterator[dict[str, Any]], path: Path) -> int:
    """Write rows as gzipped JSON lines, the same bytes for the same rows; returns their number."""
    unfinished = path.with_name(path.name + ".partial")
    count = 0
    with unfinished.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as file:
        for row in rows:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            count += 1
    unfinished.rename(path)
    return count
