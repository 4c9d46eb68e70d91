"""The stage contract: a pure function of settings, input digests and version, run once, recorded, resumed after a kill.

    fingerprint -> an intact output of a finished run? reuse it : run the work in a child process, record, publish

Work happens in `work_dir/stages/<fingerprint>/`; an output is visible only when the ledger has all of it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from pydantic import BaseModel

from moslim_core import plugins
from moslim_core.errors import UserError
from moslim_core.registry import KINDS
from moslim_core.settings import Settings
from moslim_core.settings_section import changed
from tasks.execution.launcher import Launch, run_worker
from tasks.execution.on_pool import run_on_pool
from tasks.ledger.checkpoints import Handover
from tasks.ledger.ledger import Ledger
from tasks.ledger.of_work_dir import ledger_of
from tasks.ledger.references import STAGE_FILE, ArtifactRef, Outcome, digest_of, write_manifest
from tasks.surroundings import environment, on_worker, progress

LEDGER_SECONDS = 2.0


# Told of a stage that has to work, before it does: raises UserError where it would fail.
Check = Callable[[], None]


def unchecked() -> None:
    """For a stage that needs nothing that could be looked at before."""


@dataclass(frozen=True)
class Stage:
    """A step of the pipeline. `section` gives the settings that its result depends on; raise `version` when its results change.

    `pool`: whose workers run it where stages are placed on pools. `computes`: whether models run in it, so that dtype and device count.
    """

    name: str
    version: int
    kind: str
    section: Callable[[Settings], dict[str, Any]]
    launch: Callable[[Settings], Launch] = lambda settings: Launch()
    pool: Literal["cpu", "gpu"] = "cpu"
    computes: Callable[[Settings], bool] = lambda settings: True


class Job(BaseModel):
    """What the child process is told."""

    stage: str
    settings: Settings
    inputs: dict[str, Path]
    output: Path
    checkpoints: Path
    events: Path
    cache: Path
    # Of the run that a question is about (tasks/execution/questions.py).
    stages: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    search: tuple[float, ...] = ()


def fingerprint(stage: Stage, settings: Settings, inputs: Mapping[str, ArtifactRef]) -> str:
    """Of everything that the stage's result depends on, the versions included, and where models run in it the dtype and device type."""
    section = stage.section(settings)
    # A reward model's heads say what comes of it wherever it is read.
    others = makers(section if inputs.keys().isdisjoint({"reward_model", "judge"}) else [section, {"head": settings.reward.head}])
    return digest_of(
        {
            "stage": stage.name,
            "version": stage.version,
            "settings": section,
            "inputs": {name: ref.digest for name, ref in inputs.items()},
            "packages": environment.versions(),
            "compute": list(compute(settings)) if stage.computes(settings) else None,
            **({"plugins": others} if others else {}),
        }
    )


def makers(section: Any) -> list[dict[str, str]]:
    """The plug-ins whose things are named in settings, which are JSON data. Raises UserError for things of no installed one."""
    of_setting = {kind.setting: kind for kind in KINDS.values()}

    def modules(value: Any, key: str) -> Iterator[str | None]:
        if isinstance(value, dict | list):
            for name, inner in value.items() if isinstance(value, dict) else ((key, inner) for inner in value):
                yield from modules(inner, name)
        elif isinstance(value, str) and key in of_setting:
            yield of_setting[key].plugged(value)

    by_distribution = {made["distribution"]: made for module in modules(section, "") if module for made in [plugins.maker(module)]}
    return [by_distribution[name] for name in sorted(by_distribution)]


@cache
def _picked(device: str, dtype: str, cache: Path) -> tuple[str, str]:
    if device == "cpu" and dtype != "auto":
        # Nothing is left to ask torch, whose import takes seconds.
        return device, dtype
    from moslim_core import models

    where = models.pick_device(device)  # type: ignore[arg-type]
    return where, str(models.pick_dtype(dtype, where, cache)).removeprefix("torch.")  # type: ignore[arg-type]


def compute(settings: Settings) -> tuple[str, str]:
    """(device type, dtype) that the run uses."""
    return _picked(settings.model.device, settings.model.dtype, environment.model_cache(settings.work_dir))


def run_stage(stage: Stage, settings: Settings, inputs: Mapping[str, ArtifactRef], parent: str | None, check: Check = unchecked) -> Outcome:
    """The stage's output: that of an earlier run if it is intact, else made now, by one process at a time, after `check`, which may refuse.

    With `placement` pools a worker of the stage's pool does all that, below the same `parent`.
    """
    ledger = ledger_of(settings.work_dir)
    if settings.placement == "pools":
        return run_on_pool(stage.name, stage.pool, settings, inputs, ledger, parent)
    key = fingerprint(stage, settings, inputs)
    locks = settings.work_dir / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(str(locks / f"{key}.lock")), on_worker.making(key):
        ref = ledger.finished(stage.name, key)
        if ref is not None:
            recorded = read_record(ledger.download(ref.uri))
            progress.announce(stage.name, "reused", f"{stage.name}: reused run {ref.run_id} (same fingerprint {key[:12]})")
            return Outcome(ref=ref, stage=stage.name, cached=True, **recorded)
        check()
        # What trains, and what else uses a GPU, takes turns; so does the rest.
        on_gpu = stage.pool == "gpu" or (stage.computes(settings) and compute(settings)[0] == "cuda")
        with on_worker.slot("gpu" if on_gpu else "cpu"):
            return _work(stage, settings, inputs, parent, ledger, key)


def stage_task(
    stage: Stage, settings: Settings, inputs: Mapping[str, ArtifactRef], parent: str | None, check: Check = unchecked
) -> Outcome:
    """`run_stage` as a task of the flow that calls it.

    Prefect is imported here: the worker process of a stage imports that stage's module too, and has no use for it.
    """
    from prefect import task
    from prefect.cache_policies import NO_CACHE

    return task(name=stage.name, cache_policy=NO_CACHE)(run_stage)(stage, settings, inputs, parent, check)


def read_record(directory: Path) -> dict[str, Any]:
    """{seconds, peak_memory_gb, metrics} that a stage left beside its output."""
    return json.loads((directory / STAGE_FILE).read_text(encoding="utf-8"))


def _work(stage: Stage, settings: Settings, inputs: Mapping[str, ArtifactRef], parent: str | None, ledger: Ledger, key: str) -> Outcome:
    run_id = ledger.open_stage(stage.name, key, parent, stage.section(settings))
    for name, ref in inputs.items():
        ledger.log_dataset(run_id, name, ref.digest, ref.uri)
    home = settings.work_dir / "stages" / key
    home.mkdir(parents=True, exist_ok=True)
    output, events, clock = home / "output", home / "events.jsonl", home / "seconds"
    shutil.rmtree(output, ignore_errors=True)
    checkpoints = Handover(ledger, run_id, home)
    checkpoints.fetch()
    spent = _spent(clock)
    resolved = settings
    if stage.computes(settings):
        device, dtype = compute(settings)
        resolved = changed(settings, model=changed(settings.model, device=device, dtype=dtype))
    job = Job(
        stage=stage.name,
        settings=environment.pinned(resolved),
        inputs={name: ledger.download(ref.uri) for name, ref in inputs.items()},
        output=output,
        checkpoints=checkpoints.folder,
        events=events,
        cache=environment.model_cache(settings.work_dir),
    )
    file = home / "job.json"
    file.write_text(job.model_dump_json(indent=1), encoding="utf-8")
    recorder = _Recorder(stage.name, ledger, run_id, clock, spent)
    resumed = "resuming" if job.checkpoints.exists() else "running"
    progress.announce(stage.name, resumed, f"{stage.name}: {resumed}, run {run_id}, fingerprint {key[:12]}")
    try:
        with checkpoints.sending():
            peak = run_worker(file, events, home / "worker.log", recorder, stage.launch(settings))
        recorder.flush()
        if fingerprint(stage, settings, inputs) != key:
            # What comes of both is neither's result, and nothing of it may be taken up again.
            shutil.rmtree(home, ignore_errors=True)
            raise UserError(f"{stage.name}: a model or a file of data changed while the stage read it.\nRun again.")
    except BaseException as error:
        recorder.try_flush()
        # A failure or a cancellation is on record at once; a kill of this very process is closed by the next command.
        ledger.close(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        state = "failed" if isinstance(error, Exception) else "stopped"
        progress.announce(stage.name, state, f"{stage.name}: {state}")
        raise
    seconds = recorder.seconds()
    metrics = json.loads((home / "metrics.json").read_text(encoding="utf-8"))
    cost = {"seconds": seconds, "peak_memory_gb": peak / 1e9}
    (output / STAGE_FILE).write_text(json.dumps({**cost, "metrics": metrics}, indent=1), encoding="utf-8")
    ledger.log_points(run_id, [(0, {**metrics, **cost})])
    ref = ledger.finish(run_id, stage.kind, output, write_manifest(output))
    checkpoints.discard()
    shutil.rmtree(home, ignore_errors=True)
    progress.announce(stage.name, "done", f"{stage.name}: done in {seconds:.0f} s")
    return Outcome(ref=ref, stage=stage.name, cached=False, metrics=metrics, **cost)


def _spent(clock: Path) -> float:
    """Seconds that interrupted attempts took; a full disk may have kept the last one from saying so."""
    try:
        return float(clock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0.0


class _Recorder:
    """Takes a worker's events: progress to whoever listens, metric points to the ledger in batches."""

    def __init__(self, stage: str, ledger: Ledger, run_id: str, clock: Path, spent: float) -> None:
        self.stage, self.ledger, self.run_id, self.clock, self.spent = stage, ledger, run_id, clock, spent
        self.started = self.flushed = time.monotonic()
        self.since = time.time()
        self.points: list[tuple[int, dict[str, float]]] = []

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "metrics":
            self.points.append((event["step"], event["values"]))
        elif event["time"] >= self.since:
            # What an earlier attempt did is no measure of how fast this one is.
            progress.progress(self.stage, event["phase"], event["done"], event["total"])
        if time.monotonic() - self.flushed > LEDGER_SECONDS:
            self.try_flush()

    def seconds(self) -> float:
        """Seconds of work, those of interrupted attempts included."""
        return self.spent + time.monotonic() - self.started

    def flush(self) -> None:
        self.flushed = time.monotonic()
        self.clock.write_text(f"{self.seconds():.1f}", encoding="utf-8")
        self.ledger.log_points(self.run_id, self.points)
        self.points = []

    def try_flush(self) -> None:
        """`flush`; points that the ledger does not take now are kept for the next time."""
        from mlflow.exceptions import MlflowException

        try:
            self.flush()
        except (MlflowException, OSError) as error:
            progress.tell(f"{self.stage}: MLflow took no metrics, they are kept: {progress.first_line(error)}")
