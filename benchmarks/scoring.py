"""What scoring costs: six heads against one and against six models, batches by length against batches as they come, memory for a long file.

MOSLIM_DATA_DIR=DIR python benchmarks/scoring.py [--base MODEL] [--rows 600]

DIR holds unified_3h/test.jsonl.gz; without it the starter rows are scored. MODEL is the backbone, minilm-l6 unless one is named.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from moslim_core import models
from moslim_core.data import starter
from moslim_core.data.rows import read_json_lines
from moslim_core.preferences import PreferenceSchema
from moslim_core.reward.model import create, encode
from moslim_core.reward.scorer import RewardScorer

ROUNDS = 5
NAIVE_BATCH = 32
LONG = 200_000


def texts(count: int) -> tuple[list[str], list[str]]:
    folder = os.environ.get("MOSLIM_DATA_DIR")
    path = Path(folder) / "unified_3h" / "test.jsonl.gz" if folder else starter.ROWS
    rows = [value for _, value in read_json_lines(path)][:count]
    print(f"{len(rows)} rows of {'unified_3h' if folder else 'the starter set'}")
    return [row["prompt"] for row in rows], [row["response"] for row in rows]


def scorer(heads: int, source: str) -> RewardScorer:
    schema = PreferenceSchema.model_validate([{"name": f"p{i}", "levels": ["a", "b", "c"]} for i in range(heads)])
    model, tokenizer = create(source, schema, None, 192)
    return RewardScorer(model.to(models.pick_device()), tokenizer)


def naive(one: RewardScorer, questions: list[str], answers: list[str]) -> None:
    """Batches of 32 as the rows come, each padded to its longest."""
    for start in range(0, len(answers), NAIVE_BATCH):
        part = slice(start, start + NAIVE_BATCH)
        encoded = encode(one.tokenizer, questions[part], answers[part], one.model.config.max_tokens)
        with torch.inference_mode():
            one.model(**one.tokenizer.pad(encoded, return_tensors="pt").to(one.model.device))


def alternately(systems: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each; they take turns, so that a slower minute of the machine meets all."""
    times: dict[str, list[float]] = {name: [] for name in systems}
    for number in range(ROUNDS + 1):
        for name, work in systems.items():
            start = time.perf_counter()
            work()
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(of) for name, of in times.items()}


def peak_of_scoring(rows: int, folder: Path, questions: list[str], answers: list[str]) -> float:
    """Peak resident GB of a child process that scores a file of `rows` rows through `moslim score`'s own function."""
    file = folder / "rows.jsonl"
    with file.open("w") as out:
        for number in range(rows):
            i = number % len(answers)
            out.write(json.dumps({"prompt": questions[i], "response": f"{number} {answers[i]}"[:200]}) + "\n")
    code = (
        "import sys; from pathlib import Path; from flows.cli.scoring import score_rows; score_rows(Path(sys.argv[1]), *sys.argv[2:4], '')"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    subprocess.run([sys.executable, "-c", code, str(folder / "model"), str(file), str(folder / "scored.jsonl")], check=True)
    with (folder / "scored.jsonl").open() as scored:
        assert sum(1 for _ in scored) == rows
    # The largest of all children so far: rising sizes are measured in rising order.
    return max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1e6


def main(base: str, count: int) -> None:
    questions, answers = texts(count)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = models.resolve(base, folder)
        one, three, six = (scorer(heads, source) for heads in (1, 3, 6))
        others = [scorer(1, source) for _ in range(6)]
        systems = {"one": [one], "three": [three], "six": [six], "three models": others[:3], "six models": others}

        def score(scorers: list[RewardScorer]) -> None:
            for each in scorers:
                each(questions, answers)

        seconds = alternately({name: partial(score, scorers) for name, scorers in systems.items()})
        print(f"on {one.model.device}: six heads take {seconds['six'] / seconds['one']:.3f} times as long as one ({seconds['one']:.1f} s)")
        for heads in ("three", "six"):
            print(f"{heads} heads take {seconds[heads] / seconds[f'{heads} models']:.3f} times as long as {heads} models")
        del others, systems
        seconds = alternately({"by length": lambda: one(questions, answers), "naive": lambda: naive(one, questions, answers)})
        print(f"batches as they come take {seconds['naive'] / seconds['by length']:.2f} times as long as batches by length")
        # The smallest model there is: the memory of the rows is what counts here.
        small = RewardScorer(*create(source, one.schema, 1, 32))
        small.model.save_pretrained(folder / "model")
        small.tokenizer.save_pretrained(folder / "model")
        for rows in (LONG // 10, LONG):
            print(f"{rows:,} rows: {peak_of_scoring(rows, folder, questions, answers):.2f} GB at most")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="minilm-l6")
    parser.add_argument("--rows", type=int, default=600)
    options = parser.parse_args()
    main(options.base, options.rows)
