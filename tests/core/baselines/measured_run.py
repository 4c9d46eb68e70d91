"""`python measured_run.py SETTINGS ROWS REWARD WORK METHOD...`: compared systems, alone or as one of several processes.

The metrics that a process found are in WORK/METHOD/metrics.RANK.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from moslim_core.baselines.measure import measure
from moslim_core.baselines.method import Context
from moslim_core.evaluation.judges import AnnotatorJudge
from moslim_core.settings import Settings
from moslim_core.training.progress import Progress


def main(file: Path, rows: Path, reward: Path, work: Path, *methods: str) -> None:
    torch.set_num_threads(1)
    settings = Settings.model_validate_json(file.read_bytes())
    for name in methods:
        own = work / name
        own.mkdir(parents=True, exist_ok=True)
        judge = AnnotatorJudge(settings.preferences)
        found = measure(name, Context(settings, rows, reward, None, judge, None, rows, own, own / "output", Progress()))
        (own / f"metrics.{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]), *sys.argv[5:])
