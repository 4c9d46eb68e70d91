"""Scores of chosen and rejected answers in RewardBench's row format: `results` is 1 where the chosen answer scores higher. (ours)

A row has prompt, chosen and rejected, and keeps what else it has, such as RewardBench's id and subset. Its score is the mean over the
heads of the expected score in [0, 1], or that of the head that it is about.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from moslim_core.data.row_formats import choice_of
from moslim_core.data.rows import plain_text
from moslim_core.data.tables import read_table
from moslim_core.errors import UserError
from moslim_core.export.folder import new_folder
from moslim_core.json_text import writable
from moslim_core.reward.metrics import expected_scores
from moslim_core.reward.scorer import RewardScorer

SCORES, SUMMARY = "scores.jsonl", "summary.json"
ALL = "all"


def export_scores(reward: Path, pairs: Path, output: Path) -> Path:
    """Write scores.jsonl, and the accuracy of each subset and of all in summary.json. Raises UserError naming a row that is no pair."""
    rows = [(row, *choice_of(row, "prompt", f"{pairs}, row {number}")) for number, row in read_table(pairs)]
    if not rows:
        raise UserError(f"{pairs}: the file has no pairs.\nGive one JSON object a line with prompt, chosen and rejected.")
    scorer = RewardScorer.load(reward)
    right: dict[str, list[float]] = defaultdict(list)
    with new_folder(output) as folder:
        with (folder / SCORES).open("w", encoding="utf-8") as file:
            for scored in _scored(scorer, rows):
                for subset in {ALL, str(scored.get("subset", ALL))}:
                    right[subset].append(scored["results"])
                file.write(json.dumps(writable(scored), ensure_ascii=False, default=str) + "\n")
        summary = {subset: {"rows": len(of), "accuracy": float(np.mean(of))} for subset, of in right.items()}
        (folder / SUMMARY).write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return output


def _scored(scorer: RewardScorer, rows: list[tuple[dict[str, Any], Any, str, str]]) -> Iterator[dict[str, Any]]:
    questions = [plain_text(question) for _, question, _, _ in rows]
    chosen, rejected = (expected_scores(scorer(questions, [str(row[side]) for row in rows]), scorer.schema) for side in (2, 3))
    names = scorer.schema.names
    for (row, *_), better, worse in zip(rows, chosen, rejected, strict=True):
        about = [names.index(row["preference"])] if row.get("preference") in names else list(range(len(names)))
        of_chosen, of_rejected = float(better[about].mean()), float(worse[about].mean())
        heads = {name: [float(better[n]), float(worse[n])] for n, name in enumerate(names)}
        result = 0.5 if of_chosen == of_rejected else float(of_chosen > of_rejected)
        yield {**row, "scores_chosen": of_chosen, "scores_rejected": of_rejected, "results": result, "heads": heads}
