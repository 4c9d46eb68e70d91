"""Which policies a work directory has, and what belongs to one: the reward model that trained it, its evaluation, its data's sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from tasks.execution.stage import ledger_of
from tasks.ledger.ledger import DIGEST, OUTPUT, STAGE, Ledger
from tasks.ledger.references import intact_digest, path_digest
from tasks.ledger.registry import STAGE_NAME

# So many trained policies are listed, the newest.
LISTED = 30


class KnownPolicy(NamedTuple):
    """A policy by its reference, and what tells it from others."""

    reference: str
    about: str


class Lineage(NamedTuple):
    """Folders of what belongs to a policy, None where no run on record has it; `sources`: those of its rated answers that have no path."""

    reward_model: Path | None = None
    evaluation: Path | None = None
    sources: tuple[str, ...] = ()


def known_policies(work_dir: Path) -> list[KnownPolicy]:
    """Those that the registry has a name for, then all that finished runs made, the newest first."""
    ledger = ledger_of(work_dir)
    return [*_registered(ledger), *_trained(ledger)]


def lineage_of(policy: Path, work_dir: Path) -> Lineage:
    """What the runs on record say of the policy in a folder, whatever place it was copied to."""
    ledger = ledger_of(work_dir)
    # Notes on the time that a run took are no part of what it made.
    digest = intact_digest(policy) or path_digest(policy)
    made = ledger.made(STAGE_NAME, digest) if digest else None
    if made is None:
        return Lineage()
    reward_model, rows = (ledger.input_of(made.run_id, name) for name in ("reward_model", "rows"))
    evaluated = next(iter(_runs(ledger, "evaluate", f"datasets.digest = '{made.digest[:36]}'")), None)
    return Lineage(
        _folder(ledger, reward_model),
        _folder(ledger, f"runs:/{evaluated.info.run_id}/{OUTPUT}" if evaluated else None),
        _sources(ledger, rows),
    )


def _registered(ledger: Ledger) -> Iterator[KnownPolicy]:
    for model in ledger.client.search_registered_models():
        for alias, version in sorted(model.aliases.items()):
            yield KnownPolicy(f"models:/{model.name}@{alias}", f"version {version}")


def _trained(ledger: Ledger) -> Iterator[KnownPolicy]:
    for run in _runs(ledger, STAGE_NAME):
        ended = datetime.fromtimestamp((run.info.end_time or run.info.start_time) / 1000).astimezone()
        yield KnownPolicy(f"runs:/{run.info.run_id}/{OUTPUT}", f"trained {ended:%Y-%m-%d %H:%M}")


def _runs(ledger: Ledger, stage: str, more: str = "") -> list[Any]:
    where = f"tags.`{STAGE}` = '{stage}' and tags.`{DIGEST}` != '' and attributes.status = 'FINISHED'" + (f" and {more}" if more else "")
    return list(ledger.client.search_runs([ledger.experiment_id], where, max_results=LISTED, order_by=["attributes.end_time DESC"]))


def _folder(ledger: Ledger, uri: str | None) -> Path | None:
    """A folder whose files are as they were written; None where there is none any more."""
    try:
        folder = ledger.download(uri) if uri else None
    except Exception:  # noqa: BLE001  # whatever a store raises: the page goes without
        return None
    return folder if folder is not None and intact_digest(folder) else None


def _sources(ledger: Ledger, rows: str | None) -> tuple[str, ...]:
    """The sources of the label stage that made the rows, where they need no `data.path`."""
    if rows is None or not rows.startswith("runs:/"):
        return ()
    params = ledger.client.get_run(rows.split("/")[1]).data.params
    if params.get("data.path") != "None":
        return ()
    try:
        sources = ast.literal_eval(params.get("data.source", "[]"))
    except (SyntaxError, ValueError):
        return ()
    return tuple(str(name) for name in sources if name not in ("jsonl", "csv", "parquet"))
