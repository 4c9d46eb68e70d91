"""Which policies a work directory has, and what belongs to one: the reward model that trained it, its evaluation, its run's settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from tasks.ledger.ledger import DIGEST, OUTPUT, STAGE, Ledger
from tasks.ledger.of_work_dir import ledger_of
from tasks.ledger.pipeline import settings_of
from tasks.ledger.references import intact_digest, path_digest
from tasks.ledger.registry import CHAMPION, STAGE_NAME

# So many trained policies are listed, the newest.
LISTED = 30
# So much of a run's id tells it from others.
SHORT_ID = 8


class KnownPolicy(NamedTuple):
    """A policy by its reference; `title`: what people call it, and what tells it from others."""

    reference: str
    title: str


class Lineage(NamedTuple):
    """Folders of what belongs to a policy, None where no run on record has it; `settings`: of the pipeline that trained it, empty where
    no pipeline did."""

    reward_model: Path | None = None
    evaluation: Path | None = None
    settings: Mapping[str, Any] = MappingProxyType({})


def known_policies(work_dir: Path) -> list[KnownPolicy]:
    """The registry's versions, the champion first and those without an alias last, then all that finished runs made, the newest first."""
    ledger = ledger_of(work_dir)
    registered, trained = list(_registered(ledger)), _runs(ledger, STAGE_NAME)
    runs = _by_id(ledger, [version.run_id for _, _, version in registered]) | {run.info.run_id: run for run in trained}
    pipelines = _by_id(ledger, [_parent(run) for run in runs.values()])

    def made_by(run_id: str) -> str:
        pipeline = pipelines.get(_parent(runs[run_id])) if run_id in runs else None
        return " · ".join([*([pipeline.info.run_name] if pipeline else []), run_id[:SHORT_ID]])

    return [
        *(KnownPolicy(reference, f"{called} · {made_by(str(version.run_id))}") for reference, called, version in registered),
        *(
            KnownPolicy(f"runs:/{run.info.run_id}/{OUTPUT}", f"{made_by(run.info.run_id)} · trained {_ended(run):%Y-%m-%d %H:%M}")
            for run in trained
        ),
    ]


def lineage_of(policy: Path, work_dir: Path) -> Lineage:
    """What the runs on record say of the policy in a folder, whatever place it was copied to."""
    ledger = ledger_of(work_dir)
    # Notes on the time that a run took are no part of what it made.
    digest = intact_digest(policy) or path_digest(policy)
    made = ledger.made(STAGE_NAME, digest) if digest else None
    if made is None:
        return Lineage()
    reward_model = ledger.input_of(made.run_id, "reward_model")
    parent = _parent(ledger.client.get_run(made.run_id))
    evaluated = next(iter(_runs(ledger, "evaluate", f"datasets.digest = '{made.digest[:36]}'")), None)
    return Lineage(
        _folder(ledger, reward_model),
        _folder(ledger, f"runs:/{evaluated.info.run_id}/{OUTPUT}" if evaluated else None),
        settings_of(ledger, parent),
    )


def _registered(ledger: Ledger) -> Iterator[tuple[str, str, Any]]:
    """(reference, what it is called, version) for each alias, and for each version that has none."""
    for model in ledger.client.search_registered_models():
        versions = {str(version.version): version for version in ledger.client.search_model_versions(f"name = '{model.name}'")}
        aliases = {alias: str(number) for alias, number in model.aliases.items()}
        for alias in sorted(aliases, key=lambda alias: (alias != CHAMPION, alias)):
            yield f"models:/{model.name}@{alias}", f"{model.name}@{alias}, version {aliases[alias]}", versions[aliases[alias]]
        for number in sorted(versions.keys() - set(aliases.values()), key=int, reverse=True):
            yield f"models:/{model.name}/{number}", f"{model.name}, version {number}", versions[number]


def _parent(run: Any) -> str:
    """The id of the run that a stage's is below, '' where it is below none."""
    return str(run.data.tags.get("mlflow.parentRunId", ""))


def _ended(run: Any) -> datetime:
    return datetime.fromtimestamp((run.info.end_time or run.info.start_time) / 1000).astimezone()


def _by_id(ledger: Ledger, ids: Iterable[str | None]) -> dict[str, Any]:
    """The runs that have these ids, asked for at once; one that was deleted is left out."""
    wanted = sorted({run_id for run_id in ids if run_id})
    if not wanted:
        return {}
    where = f"attributes.run_id IN ({', '.join(map(repr, wanted))})"
    return {run.info.run_id: run for run in ledger.client.search_runs([ledger.experiment_id], where, max_results=len(wanted))}


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
