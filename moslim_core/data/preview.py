"""What a run would learn from, before it does: rows, prompts and levels by split, and what is dropped and why."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from moslim_core.data.prepare import Seen, prepare
from moslim_core.data.splits import JUDGE, TEST, TRAIN, VALIDATION
from moslim_core.errors import UserError
from moslim_core.preferences import PreferenceSchema
from moslim_core.settings import Settings
from moslim_core.settings_section import changed
from moslim_core.training.progress import Progress

# With fewer training rows a level is hardly learnt.
FEW_ROWS = 5
PURPOSE = {
    TRAIN: "train the reward model and the policy",
    JUDGE: "train the judge",
    VALIDATION: "calibrate",
    TEST: "measure",
}


class LevelRows(BaseModel):
    """Rows of one level of one preference, by split."""

    preference: str
    level: int
    label: str
    rows: dict[str, int]


class Preview(BaseModel):
    """`prompts`: of all rows by split, and those that the policy trains and is evaluated on. `choices`: between two answers, by preference
    and split. `examples`: a few rows, as in the data card.

    `refused`: why a run would end here.
    """

    rows: dict[str, int]
    prompts: dict[str, int]
    policy_prompts: dict[str, int] | None
    levels: list[LevelRows]
    choices: dict[str, dict[str, int]]
    examples: list[dict[str, Any]]
    dropped: dict[str, int]
    bad_rows: list[dict[str, Any]]
    warnings: list[str]
    refused: str | None


def preview(settings: Settings, cache: Path) -> Preview:
    """The label stage's work, with nothing kept and nobody paid: of those who fill in labels the rules alone are asked.

    Raises UserError where the rows can't be read at all.
    """
    others = [name for name in settings.annotation.fill if name != "rules"]
    if others:
        settings = changed(settings, annotation=changed(settings.annotation, fill=("rules",)))
    seen: list[Seen] = []
    card, refused = None, None
    with tempfile.TemporaryDirectory(prefix="moslim-preview-") as folder:
        try:
            card = prepare(settings, Path(folder) / "output", cache, Progress(), seen.append)
        except UserError as error:
            if not seen:
                raise
            refused = None if others else str(error)
    (prepared,) = seen
    choices: dict[str, dict[str, int]] = defaultdict(dict)
    for (name, split), count in prepared.tally.choices.items():
        choices[name][split] = count
    levels = _levels(prepared, settings.preferences)
    warnings = [f"{' and '.join(others)} would fill in labels; not asked here, so rows without a label count as dropped"] if others else []
    warnings += [
        f"{of.preference}: few training rows ({of.rows.get(TRAIN, 0)}) at level {of.level} ({of.label})"
        for of in levels
        if of.rows.get(TRAIN, 0) < FEW_ROWS and of.preference not in choices
    ]
    return Preview(
        rows={split: rows for split in PURPOSE if (rows := sum(n for (at, _), n in prepared.tally.rows.items() if at == split))},
        prompts=prepared.splits.rated_sizes(),
        policy_prompts=card["prompts"] if card else None,
        levels=levels,
        choices=choices,
        examples=prepared.tally.examples(),
        dropped={reason: count for reason, count in prepared.dropped.items() if count},
        bad_rows=prepared.bad.record(),
        warnings=warnings,
        refused=refused,
    )


def _levels(prepared: Seen, schema: PreferenceSchema) -> list[LevelRows]:
    rows: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    for (name, split, _, level), count in prepared.tally.levels.items():
        rows[name, level][split] += count
    return [
        LevelRows(preference=p.name, level=level, label=p.label(level), rows=dict(rows[p.name, level]))
        for p in schema.preferences
        for level in range(1, p.k + 1)
    ]
