"""`python -m tasks.execution.worker JOB`: the child that does a stage's work. Exit code 2 and JOB.error for what a user can mend."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

from moslim_core.errors import UserError
from tasks.stage_list import module_of
from tasks.surroundings.die_with_parent import die_with


def main(path: Path) -> int:
    """Do the work of the job in `path`; the process's exit code."""
    from moslim_core.training.distributed import is_first
    from tasks.execution.stage import Job

    # A launcher (torchrun, accelerate) may stand in between, and starts sessions of their own: what kills it must reach this one.
    die_with(os.getppid())
    see_one_gpu()
    try:
        job = Job.model_validate_json(path.read_bytes())
        metrics = importlib.import_module(module_of(job.stage)).work(job)
    except UserError as error:
        Path(f"{path}.error").write_text(str(error), encoding="utf-8")
        return 2
    if is_first():
        (path.parent / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    return 0


def see_one_gpu() -> None:
    """Hide all GPUs but the first from a worker that works alone: transformers' trainer would share its rows out among those it sees."""
    if "WORLD_SIZE" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of libraries (event loops, thread pools) must not keep a finished worker from ending.
    os._exit(code)
