"""`python -m flows.service.supervisor WORK_DIR DEPLOYMENTS`: MLflow, Prefect, two pools with a worker each, until SIGTERM or one dies.

Work ends first, while there is still a server that it can report to; then the workers, then the servers.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from flows.service.deploy import POOLS, deploy
from flows.service.keeper import known
from flows.service.server import mlflow_server, prefect_server
from flows.service.up import STATE, form_in
from tasks.execution.launcher import guarded, stop
from tasks.surroundings.processes import lives, own_name, pid_of

REPORT_SECONDS = 20.0
# Two seconds in place of ten: a run that is asked for starts at once.
POLL = {"PREFECT_WORKER_QUERY_SECONDS": "2"}


def main(work_dir: Path, deployments: Path) -> None:
    """Start everything, write `work_dir`/up.json once it serves, and end all of it with the first part that dies."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with mlflow_server(work_dir) as (mlflow, page), prefect_server(work_dir) as api:
        deploy(deployments)
        with contextlib.ExitStack() as stack:
            workers = {pool: stack.enter_context(_worker(pool)) for pool in POOLS}
            server = known(work_dir / "prefect")
            assert server is not None, "it was started above"
            pids = {"mlflow": mlflow.pid, "prefect": pid_of(server[1]), **{f"worker {pool}": p.pid for pool, p in workers.items()}}
            served = {"mlflow": page, "prefect": api, "workers": list(POOLS), "form": form_in(deployments)}
            state = {"owner": own_name(), **served, "pids": pids}
            partial = work_dir / f".{STATE}"
            partial.write_text(json.dumps(state, indent=1), encoding="utf-8")
            os.replace(partial, work_dir / STATE)
            while all(map(lives, pids.values())):
                time.sleep(0.5)
            dead = [name for name, pid in pids.items() if not lives(pid)]
            print(f"{', '.join(dead)} ended: so does the rest", flush=True)


@contextlib.contextmanager
def _worker(pool: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of a pool. At the end its flows are asked to report first that they were stopped."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
    process = subprocess.Popen(guarded(command), stdin=subprocess.DEVNULL, env={**os.environ, **POLL})
    try:
        yield process
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if lives(process.pid) else []
        for flow in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                flow.terminate()
        _, left = psutil.wait_procs(family, timeout=REPORT_SECONDS)
        stop(process)
        for flow in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                flow.kill()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
