"""MLflow as the ledger: a parent run per pipeline, a child run per stage, and which stage outputs already exist."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from moslim_core.errors import UserError
from tasks.ledger import logged_model
from tasks.ledger.mlflow_pages import MODEL_TRAINING, show_columns
from tasks.ledger.parameters import flatten
from tasks.ledger.references import ArtifactRef, digest_of, intact_digest
from tasks.ledger.store_reachable import require_answer
from tasks.surroundings import on_worker
from tasks.surroundings.processes import is_alive, own_name

T = TypeVar("T")

EXPERIMENT = "moslim"
STAGE, FINGERPRINT, DIGEST, KIND, OWNER, FLOW_RUN = (
    "moslim.stage",
    "moslim.fingerprint",
    "moslim.output_digest",
    "moslim.kind",
    "moslim.owner",
    "moslim.flow_run",
)
OUTPUT = "output"
DATABASE_FILE = "mlflow.db"
# MLflow's own variable for where its server keeps records. May hold a password.
DATABASE = "MLFLOW_BACKEND_STORE_URI"
METRIC_BATCH = 900
# SQLite's writers wait for one another so long; what takes longer (a backup, a disk that hangs) ends the command.
LOCKED_SECONDS = 120.0
LONGEST_NAME = 250
PARAM_LIMIT = 5000
# How often, and how many seconds apart, a store is asked for an artefact that it can't give; MLflow itself repeats requests for minutes.
LOOKS, LOOK_SECONDS = 4, 5.0


def sqlite(database: Path) -> str:
    """The address of a SQLite database; who finds it locked waits. A path with a question mark has none."""
    return f"sqlite:///{database}?timeout={LOCKED_SECONDS:g}"


def named_store() -> str | None:
    """The address of the store that the environment names, if it names one: runs are then not kept below the work directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or os.environ.get(DATABASE)


def given_store() -> str | None:
    """`named_store`. Raises UserError where nothing answers there."""
    given = named_store()
    # Who started this from a terminal is told at once; a flow on a worker has the patience to sit out a restart of its server.
    if given and not on_worker.by_worker():
        require_answer(given)
    return given


def name_in(name: str) -> str:
    """A metric's or parameter's name as the ledger keeps it: what MLflow refuses is written -xHEX- by its code point.

    No two names become one: a dash before an x is written so, too, and a name that is too long ends with its digest. (ours)
    """
    parts = [re.sub(r"-(?=x)|[^\w.\- :/]", lambda match: f"-x{ord(match[0]):x}-", part) for part in name.split("/")]
    # MLflow makes folders of them, which must not lead elsewhere.
    parts = ["-x2e-" + part[1:] if part == "." or part.startswith("..") else part or "-x-" for part in parts]
    safe = "/".join(parts)
    return safe if len(safe) <= LONGEST_NAME else f"{safe[: LONGEST_NAME - 20]}-x-{digest_of(name)[:16]}"


class Ledger:
    """Runs and artefacts. The store: MLFLOW_TRACKING_URI, else MLFLOW_BACKEND_STORE_URI, else SQLite below the work directory."""

    def __init__(self, work_dir: Path) -> None:
        from mlflow import MlflowClient

        # Steps that each run has already, by metric: read once, so that long runs stay cheap.
        self._known: dict[str, dict[str, set[int]]] = {}
        home = self.home = work_dir / "mlflow"
        own = sqlite(home / DATABASE_FILE)
        self.uri = given_store() or own
        home.mkdir(parents=True, exist_ok=True)
        self._copies = home / "copies"
        # Several processes that open a new SQLite store at once all fail: one makes it, the others wait.
        with FileLock(str(home / "init.lock")), _told(self.uri):
            self.client = MlflowClient(self.uri)
            experiment = self.client.get_experiment_by_name(EXPERIMENT)
            location = None if self.served else (home / "artifacts").as_uri()
            if experiment is None:
                self.experiment_id = self.client.create_experiment(EXPERIMENT, artifact_location=location, tags=MODEL_TRAINING)
            else:
                self.experiment_id = experiment.experiment_id
                if experiment.lifecycle_stage == "deleted":
                    self.client.restore_experiment(self.experiment_id)
                if self.uri == own and experiment.artifact_location != location:
                    _moved(home / DATABASE_FILE, experiment.artifact_location, str(location))
            show_columns(self.client, self.experiment_id, experiment.tags if experiment else {})

    def reconcile(self) -> None:
        """Close the runs whose process died, or whose flow run ended on another machine: none stays RUNNING for ever."""
        for run in self._search("attributes.status = 'RUNNING'"):
            if not _goes_on(run):
                self.client.set_terminated(run.info.run_id, "KILLED")

    @property
    def served(self) -> bool:
        """Whether the store is a server, which other machines see too."""
        return self.uri.startswith(("http://", "https://"))

    def close_lost(self, parent: str, stage: str) -> None:
        """Close the run of a stage below `parent` whose process was lost: it can't do so itself."""
        where = f"tags.`mlflow.parentRunId` = '{parent}' and tags.`{STAGE}` = '{stage}' and attributes.status = 'RUNNING'"
        for run in self._search(where):
            self.close(run.info.run_id, "KILLED")

    def open_pipeline(self, fingerprint: str, name: str, params: Mapping[str, Any], parent: str | None = None) -> str:
        """The run id of this pipeline: an interrupted one of the same fingerprint is taken up again."""
        return self._open("pipeline", fingerprint, name, params, parent)

    def read(self, run_id: str, place: str) -> bytes:
        """What stands in a run's file. Raises MlflowException or OSError where there is none."""
        with tempfile.TemporaryDirectory() as folder:
            return Path(self.client.download_artifacts(run_id, place, folder)).read_bytes()

    def open_comparison(self, fingerprint: str, name: str, params: Mapping[str, Any]) -> str:
        """The run id of a comparison, above its pipelines' runs: an interrupted one of the same fingerprint is taken up again."""
        return self._open("comparison", fingerprint, name, params, None)

    def open_retraining(self, fingerprint: str, name: str, params: Mapping[str, Any]) -> str:
        """The run id of a retraining, above its pipelines' runs: an interrupted one of the same fingerprint is taken up again."""
        return self._open("retraining", fingerprint, name, params, None)

    def open_stage(self, stage: str, fingerprint: str, parent: str | None, params: Mapping[str, Any]) -> str:
        """The run id of this stage below `parent`; an interrupted run of the same fingerprint is taken up again."""
        return self._open(stage, fingerprint, stage, params, parent)

    def _open(self, stage: str, fingerprint: str, name: str, params: Mapping[str, Any], parent: str | None) -> str:
        mine = {OWNER: own_name(), FLOW_RUN: on_worker.flow_run(), **({"mlflow.parentRunId": parent} if parent else {})}
        for run in self._search(f"tags.`{STAGE}` = '{stage}' and tags.`{FINGERPRINT}` = '{fingerprint}'"):
            # Who still works has its run to itself, even from one that does the same.
            if run.info.status != "FINISHED" and not _goes_on(run):
                self.client.update_run(run.info.run_id, status="RUNNING")
                for key, value in mine.items():
                    self.client.set_tag(run.info.run_id, key, value)
                return run.info.run_id
        tags = {STAGE: stage, FINGERPRINT: fingerprint, "mlflow.runName": name, **mine}
        run_id = self.client.create_run(self.experiment_id, tags=tags).info.run_id
        from mlflow.entities import Param

        self.client.log_batch(run_id, params=[Param(name_in(k), str(v)[:PARAM_LIMIT]) for k, v in flatten(params).items()])
        return run_id

    def finished(self, stage: str, fingerprint: str) -> ArtifactRef | None:
        """The output of a finished run of this stage and fingerprint, if it is still there and intact."""
        return self._intact(stage, FINGERPRINT, fingerprint)

    def made(self, stage: str, digest: str) -> ArtifactRef | None:
        """The output with this digest of a finished run of this stage, if it is still there and intact."""
        return self._intact(stage, DIGEST, digest)

    def _intact(self, stage: str, tag: str, value: str) -> ArtifactRef | None:
        where = f"tags.`{STAGE}` = '{stage}' and tags.`{tag}` = '{value}' and attributes.status = 'FINISHED'"
        for run in self._asked(partial(self._search, where)):
            tags, uri = run.data.tags, f"runs:/{run.info.run_id}/{OUTPUT}"
            if self._asked(partial(self._digest_there, run.info.run_id)) == tags.get(DIGEST, ""):
                return ArtifactRef(kind=tags.get(KIND, ""), uri=uri, digest=tags[DIGEST], run_id=run.info.run_id)
        return None

    def _digest_there(self, run_id: str) -> str | None:
        """The digest of a run's output, None where it is missing or damaged; a spoiled copy of a server's is fetched anew."""
        uri = f"runs:/{run_id}/{OUTPUT}"
        try:
            folder = self.download(uri)
            if intact_digest(folder) is None and folder.is_relative_to(self._copies):
                shutil.rmtree(folder, ignore_errors=True)
                folder = self.download(uri)
            return intact_digest(folder)
        except Exception as error:
            # A server's answer does not always say why it gives nothing.
            if _is_missing(error) or not self.client.list_artifacts(run_id, OUTPUT):
                return None
            raise

    def _asked(self, ask: Callable[[], T]) -> T:
        """What the store answers. Raises UserError if it gives none for a while: what may be there already is not made again."""
        for left in reversed(range(LOOKS)):
            try:
                return ask()
            except Exception as error:
                if not left:
                    raise UserError(
                        f"{self.uri.rpartition('@')[2]} can't say what was made already "
                        f"({next(iter(str(error).splitlines()), type(error).__name__)}).\n"
                        "Nothing is made again that may be there: mend the store, and run again."
                    ) from error
            time.sleep(LOOK_SECONDS)
        raise AssertionError("the last look returns or raises")

    def log_points(self, run_id: str, points: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Metric points (step, values); a point that the run has already is not logged twice (a resumed run repeats some)."""
        from mlflow.entities import Metric

        known = self._known.setdefault(run_id, {})
        metrics = []
        now = int(time.time() * 1000)
        try:
            for step, values in points:
                for key, value in ((name_in(key), value) for key, value in values.items()):
                    if key not in known:
                        known[key] = {m.step for m in self.client.get_metric_history(run_id, key)}
                    if step not in known[key]:
                        known[key].add(step)
                        metrics.append(Metric(key, value, now, step))
            for start in range(0, len(metrics), METRIC_BATCH):
                self.client.log_batch(run_id, metrics=metrics[start : start + METRIC_BATCH])
        except BaseException:
            # Which of them arrived, the store has to say the next time.
            del self._known[run_id]
            raise

    def log_dataset(self, run_id: str, name: str, digest: str, source: str, profile: Mapping[str, float] | None = None) -> None:
        """An input of a run, as an MLflow dataset with its digest; `profile` holds figures about it."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        figures = json.dumps(profile) if profile else None
        entity = Dataset(name=name, digest=digest[:36], source_type="moslim", source=source, profile=figures)
        self.client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", name)])])

    def input_of(self, run_id: str, name: str) -> str | None:
        """Where an input of a run is, as `log_dataset` recorded it."""
        inputs = self.client.get_run(run_id).inputs
        return next((str(i.dataset.source) for i in inputs.dataset_inputs if i.dataset.name == name), None) if inputs else None

    def finish(self, run_id: str, kind: str, output: Path, digest: str) -> ArtifactRef:
        """Upload `output` and close the run as FINISHED; the tags that make it findable come last."""
        # The manifest is written by now: what is there for MLflow alone counts in no digest.
        for key, value in logged_model.describe(output, run_id, OUTPUT).items():
            self.client.set_tag(run_id, key, value)
        self.client.log_artifacts(run_id, str(output), OUTPUT)
        self.client.set_tag(run_id, KIND, kind)
        self.client.set_tag(run_id, DIGEST, digest)
        self.client.set_terminated(run_id, "FINISHED")
        shutil.rmtree(output, ignore_errors=True)
        return ArtifactRef(kind=kind, uri=f"runs:/{run_id}/{OUTPUT}", digest=digest, run_id=run_id)

    def close(self, run_id: str, status: str) -> None:
        self.client.set_terminated(run_id, status)

    def download(self, uri: str) -> Path:
        """A local folder with the artefact of runs:/ or models:/: the store's own where it is on this machine, else one copy.

        Outputs are never changed once a run is finished, so that one copy below the work directory serves every later call.
        """
        from mlflow.artifacts import download_artifacts
        from mlflow.utils.file_utils import local_file_uri_to_path

        root, path = self._located(uri)
        place = f"{root}/{path}"
        if urlsplit(place).scheme in ("", "file"):
            folder = _inside(Path(local_file_uri_to_path(place)), Path(local_file_uri_to_path(root)), uri)
            if not folder.exists():
                raise FileNotFoundError(f"{folder} is not there")
            return folder
        copy = self._copies / digest_of(place)[:16]
        self._copies.mkdir(exist_ok=True)
        with FileLock(f"{copy}.lock"):
            if not copy.exists():
                partial = copy.with_suffix(".partial")
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                fetched = Path(download_artifacts(artifact_uri=place, tracking_uri=self.uri, dst_path=str(partial)))
                _inside(fetched, partial, uri).rename(copy)
                shutil.rmtree(partial, ignore_errors=True)
            # What was used lately is not cleaned away.
            os.utime(copy)
        return copy

    def discard(self, run_id: str, path: str) -> None:
        """Remove a file or folder of a run's artefacts."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        get_artifact_repository(self.client.get_run(run_id).info.artifact_uri, tracking_uri=self.uri).delete_artifacts(path)

    def place(self, uri: str) -> str:
        """Where the store keeps what runs:/RUN/PATH, models:/NAME@ALIAS or models:/NAME/VERSION names."""
        return "/".join(self._located(uri))

    def _located(self, uri: str) -> tuple[str, str]:
        """(artefacts of the run, or of the logged model, that `uri` leads to; path below them). Raises UserError if it leads elsewhere."""
        scheme, _, rest = uri.partition(":/")
        if scheme == "runs":
            run_id, _, path = rest.partition("/")
            path = _below(path, uri)
            return str(self.client.get_run(run_id).info.artifact_uri), path
        name, _, alias = rest.partition("@")
        name, _, version = name.partition("/")
        if scheme != "models" or not name:
            raise UserError(f"{uri}: no reference.\nGive runs:/RUN/PATH, models:/NAME@ALIAS or models:/NAME/VERSION.")
        if not alias and not version:
            return str(self.client.get_logged_model(name).artifact_location), ""
        registered = self.client.get_model_version_by_alias(name, alias) if alias else self.client.get_model_version(name, version)
        source = str(registered.source)
        # A run's output, or a logged model's (models:/ID).
        if source.startswith("runs:/") or re.fullmatch(r"models:/[^/@]+", source):
            return self._located(source)
        # Whoever may register a model names its source, and could name any folder of who uses it.
        root = str(self.client.get_run(registered.run_id).info.artifact_uri) if registered.run_id else ""
        if not root or not source.startswith(f"{root}/"):
            raise UserError(f"{uri}: its source {source} is no output of a run.\nRegister one: moslim promote --policy REF.")
        return root, _below(source.removeprefix(f"{root}/"), uri)

    def _search(self, where: str) -> list[Any]:
        return list(self.client.search_runs([self.experiment_id], where, order_by=["attributes.start_time DESC"]))


def _moved(database: Path, was: str, now: str) -> None:
    """Say in a store where its artefacts are, after its work directory was moved or mounted elsewhere: MLflow records whole paths."""
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as store, store:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("model_versions", "storage_location")):
            store.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (now, len(was) + 1, was, len(was) + 1, f"{was}/"),
            )


def _goes_on(run: Any) -> bool:
    """Whether a process writes into a run, as far as can be known here."""
    tags = run.data.tags
    return run.info.status == "RUNNING" and is_alive(tags.get(OWNER, own_name())) and not on_worker.is_over(tags.get(FLOW_RUN, ""))


def _is_missing(error: Exception) -> bool:
    """Whether a store says that an artefact is not there, and not that it can't be asked."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return isinstance(error, FileNotFoundError) or status == 404 or getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST"


def _below(path: str, uri: str) -> str:
    """`path`, if it stays below where it begins, however often who reads it decodes it."""
    decoded = path
    while (further := unquote(decoded)) != decoded:
        decoded = further
    parts = re.split(r"[/\\]", decoded)
    if ".." in parts or (parts[0] == "" and len(parts) > 1) or not decoded.isprintable():
        raise UserError(f"{uri}: a run's artefacts are below it.\nGive runs:/RUN/PATH without '..'.")
    return path


def _inside(artefact: Path, root: Path, uri: str) -> Path:
    """`artefact`, if it and all that it holds is in `root`: links may lead elsewhere."""
    top = root.resolve()
    for path in (artefact, *(path for path in artefact.rglob("*") if path.is_symlink())):
        if not path.resolve().is_relative_to(top):
            raise UserError(f"{uri}: {path} leads out of the run's artefacts.\nGive an output that a stage wrote.")
    return artefact


@contextlib.contextmanager
def _told(uri: str) -> Iterator[None]:
    """Whatever a store raises that can't be opened (drivers, servers and files each have errors of their own) in words for its user."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (known := store_error(error)) is not None:
            raise known from error
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        # An address may hold a password before its host.
        raise UserError(
            f"the store of runs {uri.rpartition('@')[2]} can't be opened: {reason}\n"
            "Start or mend it, or unset MLFLOW_TRACKING_URI; for a damaged mlflow.db give another work directory."
        ) from error


def store_error(error: BaseException) -> UserError | None:
    """What a user can do about a database that took nothing; None for another error."""
    if (match := re.search(r"sqlite3\.OperationalError\) ([^\n]+)", str(error))) is None:
        return None
    return UserError(
        f"the database of the runs: {match[1]}.\n"
        f"If another program has locked it for {LOCKED_SECONDS:.0f} s, end that one; if its disk is full, make room.\n"
        "Then run again: what is finished is kept, and what was at work goes on from its last checkpoint."
    )
