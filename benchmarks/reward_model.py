"""How well a MiniLM-size reward model tells high from low levels on real rated answers, and how long it trains.

MOSLIM_DATA_DIR=DIR python benchmarks/reward_model.py [WORK_DIR]     (DIR holds unified_3h)

Settings were chosen on the validation split; each seed meets the test split once. A seed that WORK_DIR already has is not trained
again.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from moslim_core.data.prepare import prepare
from moslim_core.data.rows import load_rows, plain_text, prompt_key
from moslim_core.reward import training
from moslim_core.reward.metrics import METRICS_FILE, expected_calibration_error, expected_level, high_against_low
from moslim_core.reward.scorer import RewardScorer
from moslim_core.reward.tfidf import TfidfClassifier
from moslim_core.settings import Settings
from moslim_core.statistics.bootstrap import interval, resamples
from moslim_core.training.progress import Progress
from tasks.surroundings import environment

SEEDS = (0, 1, 2)
DRAWS = 1000
# The ratings' own five levels: folding them to three, as the profile does for requests, throws away what tells answers apart.
LEVELS = {str(rating): rating + 1 for rating in range(5)}
NAMES = ("helpfulness", "honesty", "harmlessness")


def settings_of(folder: Path) -> Settings:
    return Settings.model_validate(
        {
            "preferences": [{"name": name, "levels": [f"rated {rating}" for rating in LEVELS]} for name in NAMES],
            "data": {"source": "jsonl", "path": folder, "columns": {"labels": {name: {"levels": LEVELS} for name in NAMES}}},
            "reward": {
                "backbone": "minilm-l6",
                "epochs": 3,
                "learning_rate": 1.5e-4,
                "class_weights": "source_balanced",
                "max_length": 192,
            },
        }
    )


def training_seconds(events: Path) -> float:
    """From the first step to the last, of the last attempt."""
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    times = [e["time"] for e in lines if e["event"] == "progress" and e["phase"].startswith("training")]
    return times[-1] - times[0]


def calibrated_ece(probabilities: np.ndarray) -> float:
    """The 95th percentile of the calibration error of heads that are perfectly calibrated and as sure as this one."""
    rng = np.random.default_rng(0)
    levels = np.arange(1, probabilities.shape[1] + 1)
    errors = []
    for _ in range(DRAWS):
        drawn = np.array([rng.choice(levels, p=p / p.sum()) for p in probabilities])
        errors.append(expected_calibration_error(probabilities, drawn))
    return float(np.percentile(errors, 95))


def main(work: Path) -> None:
    settings = settings_of(Path(os.environ["MOSLIM_DATA_DIR"]) / "unified_3h")
    schema, rows_dir, cache = settings.preferences, work / "rows", work / "models"
    if not rows_dir.exists():
        prepare(settings, rows_dir, cache, Progress())
    for seed in SEEDS:
        folder = work / f"seed-{seed}"
        if not (folder / "model" / METRICS_FILE).exists():
            folder.mkdir(parents=True, exist_ok=True)
            training.train(
                settings.reward, settings.model, schema, rows_dir, "train", seed, cache, folder / "checkpoints", folder / "model",
                Progress(folder / "events.jsonl"),
            )  # fmt: skip
        print(f"seed {seed}: trained in {training_seconds(folder / 'events.jsonl') / 60:.1f} minutes", flush=True)
    rows = load_rows(rows_dir / "test.jsonl")
    started = time.monotonic()
    simple = TfidfClassifier(schema, load_rows(rows_dir / "train.jsonl"))(rows)
    print(f"TF-IDF + logistic regression: {time.monotonic() - started:.0f} s")
    scorers = [RewardScorer.load(work / f"seed-{seed}" / "model") for seed in SEEDS]
    probabilities = [scorer([plain_text(r.prompt) for r in rows], [r.response for r in rows]) for scorer in scorers]
    for name in schema.names:
        labelled = [i for i, row in enumerate(rows) if name in row.labels]
        levels = np.array([rows[i].labels[name] for i in labelled], dtype=float)
        sources = np.array([rows[i].source for i in labelled])
        expected = [expected_level(p[name][labelled]) for p in probabilities]
        draws = resamples(np.array([prompt_key(rows[i].prompt) for i in labelled]), DRAWS, 0)

        def auc(levels: np.ndarray, *of: np.ndarray) -> float:
            values = [high_against_low(e, levels, len(LEVELS)) for e in of]
            return float(np.mean([np.nan if v is None else v for v in values]))

        def gain(levels: np.ndarray, simple: np.ndarray, *of: np.ndarray) -> float:
            return auc(levels, *of) - auc(levels, simple)

        baseline = expected_level(simple[name][labelled])
        by_source = {str(s): auc(levels[sources == s], *(e[sources == s] for e in expected)) for s in np.unique(sources)}
        defined = [v for v in by_source.values() if np.isfinite(v)]
        print(f"\n{name}: {len(labelled)} rows")
        print(
            f"  AUC by seed {', '.join(f'{auc(levels, e):.3f}' for e in expected)}; mean {_show(interval(auc, (levels, *expected), draws))}"
        )
        print(f"  TF-IDF {auc(levels, baseline):.3f}; gain {_show(interval(gain, (levels, baseline, *expected), draws))}")
        print(f"  macro over {len(defined)} sources {np.mean(defined):.3f}: {_list(by_source)}")
        for seed, p in zip(SEEDS, probabilities, strict=True):
            ece = expected_calibration_error(p[name][labelled], levels)
            print(f"  seed {seed}: ECE {ece:.3f}, at most {max(0.05, calibrated_ece(p[name][labelled])):.3f} wanted")


def _show(value: object) -> str:
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"  # type: ignore[attr-defined]


def _list(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())


if __name__ == "__main__":
    if not environment.QUIET.items() <= os.environ.items():
        # As the stages' processes have it: the C library reads its part at the start of a process.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **environment.QUIET})
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as name:
            main(Path(name))
