"""A flow on a worker: it takes the worker's work directory, takes turns with others, and does not outlive it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from moslim_core.settings import Settings
from moslim_core.settings_section import changed
from tasks.surroundings import environment

WORK_DIR = "MOSLIM_WORK_DIR"
FLOW_RUN = "PREFECT__FLOW_RUN_ID"
LOOK_SECONDS = 0.5
# After a kill -9 of its holder a slot or a lock is free again this much later; Prefect takes no less.
LEASE_SECONDS = 60.0


def by_worker() -> bool:
    """Whether a worker started this process."""
    return FLOW_RUN in os.environ


def flow_run() -> str:
    """The id of the flow run that a worker started this process for; empty if none did."""
    return os.environ.get(FLOW_RUN, "")


def is_over(flow_run: str) -> bool:
    """Whether Prefect says that a worker's flow run has ended. No worker, no Prefect that would know."""
    if not (flow_run and by_worker()):
        return False
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(flow_run)).state
    except ObjectNotFound:
        return True
    except httpx.HTTPError:
        return False
    return state is not None and state.is_final()


def prepared(settings: Settings) -> Settings:
    """What a flow does first: `settings` with this machine's work directory, made ready. Raises UserError if it can't be written.

    Settings come from another machine where a worker runs the flow, so that its own MOSLIM_WORK_DIR wins.
    """
    if by_worker():
        settings = changed(settings, work_dir=Path(os.environ.get(WORK_DIR) or settings.work_dir))
        threading.Thread(target=_end_after, args=(os.getppid(),), daemon=True).start()
    return environment.prepared(settings)


def _end_after(worker: int) -> None:
    """Stop this flow, which still reports that, once its worker is gone: nobody could cancel it any more."""
    while os.getppid() == worker:
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def slot(kind: str) -> Iterator[None]:
    """Hold this machine's one slot for `kind` of work (cpu, gpu) among the flows of all its workers."""
    # Workers that see different devices of one machine do not wait for each other.
    with _turn(" ".join(filter(None, (kind, "of", socket.gethostname(), os.environ.get("CUDA_VISIBLE_DEVICES"))))):
        yield


@contextlib.contextmanager
def making(key: str) -> Iterator[None]:
    """Hold the right to make the output with this fingerprint among the workers of all machines."""
    name = f"making {key[:16]}"
    with _turn(name):
        yield
    if by_worker():
        import httpx
        from prefect.client.orchestration import get_client
        from prefect.exceptions import ObjectNotFound

        # The output is there now. Runs that waited for the limit go on without it, and find the output.
        with contextlib.suppress(httpx.HTTPError, ObjectNotFound), get_client(sync_client=True) as client:
            client.delete_global_concurrency_limit_by_name(name)


@contextlib.contextmanager
def _turn(name: str) -> Iterator[None]:
    """Hold the one slot of a concurrency limit of Prefect's. A server that is away neither ends nor fails what goes on."""
    if not by_worker():
        yield
        return
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.concurrency.sync import concurrency
    from prefect.exceptions import ObjectAlreadyExists

    # Another process may make it between the question whether it is there and its making.
    with contextlib.suppress(ObjectAlreadyExists), get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, 1)
    with contextlib.ExitStack() as held:
        held.enter_context(concurrency(name, lease_duration=LEASE_SECONDS))
        try:
            yield
        finally:
            with contextlib.suppress(httpx.HTTPError):
                held.close()
