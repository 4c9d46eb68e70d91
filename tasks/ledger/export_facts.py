"""What the ledger knows of a policy, for the card of its export: the report's findings and the data card of a run that made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moslim_core.export.card import Record
from moslim_core.export.hub import without_places
from tasks.ledger.ledger import given_store
from tasks.ledger.of_work_dir import ledger_of
from tasks.ledger.references import FINDINGS, intact_digest

POLICY_STAGE = "train_policy"
DATA_CARD = "data_card.md"
RUN_OF = "moslim.run."


def record_of(policy: Path, work_dir: Path, places: list[Path]) -> Record | None:
    """The record of the policy in a folder; None where no run of this work directory made it. `places`: what a card must not name."""
    digest = intact_digest(policy)
    if digest is None or not (given_store() or (work_dir / "mlflow").is_dir()):
        return None
    ledger = ledger_of(work_dir)
    made = ledger.made(POLICY_STAGE, digest)
    if made is None:
        return None
    # A pipeline's run names those of its stages; the latest comes first.
    pipelines = ledger.client.search_runs([ledger.experiment_id], f"tags.`{RUN_OF}{POLICY_STAGE}` = '{made.run_id}'")
    runs = [{tag.removeprefix(RUN_OF): run_id for tag, run_id in run.data.tags.items() if tag.startswith(RUN_OF)} for run in pipelines]

    def text(stage: str, name: str) -> str | None:
        for stages in runs:
            if stage in stages and (file := ledger.download(f"runs:/{stages[stage]}/output") / name).is_file():
                return without_places(file.read_text(encoding="utf-8"), places)
        return None

    findings, card = text("report", FINDINGS), text("label", DATA_CARD)
    said: dict[str, Any] | None = None if findings is None else json.loads(findings)
    return None if said is None and card is None else Record(said, card)
