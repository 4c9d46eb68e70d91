"""A stage as a flow run of its own on a worker of its pool: references go there, and its outcome comes back through the ledger.

A worker that is lost is no failure: another one goes on from the last checkpoint in the ledger.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from moslim_core.errors import UserError
from moslim_core.settings import Settings
from tasks.execution.side_by_side import require_going
from tasks.ledger.ledger import Ledger
from tasks.ledger.references import ArtifactRef, Outcome
from tasks.surroundings import progress

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.schemas.objects import State

log = logging.getLogger(__name__)

FLOW = "stage"
# A flow run that takes its worker down with it (memory, a driver) must not do so for ever.
ATTEMPTS = 4
POLL_SECONDS = 1.0


def run_on_pool(
    stage: str, pool: str, settings: Settings, inputs: Mapping[str, ArtifactRef], ledger: Ledger, parent: str | None
) -> Outcome:
    """The outcome of a stage that a worker of `pool` runs below the run `parent`.

    Raises UserError where nothing is deployed, RuntimeError with the flow run's message if it failed.
    """
    assert parent is not None, "the outcome comes back with the parent's run"
    parameters = {
        "settings": settings.dump(),
        "name": stage,
        "inputs": {name: ref.model_dump() for name, ref in inputs.items()},
        "parent": parent,
    }
    for attempt in range(1, ATTEMPTS + 1):
        state = _run(stage, pool, parameters)
        if state.is_completed():
            outcome = outcome_of(ledger, parent, stage)
            how = f"reused run {outcome.ref.run_id}" if outcome.cached else f"done in {outcome.seconds:.0f} s"
            progress.announce(stage, "reused" if outcome.cached else "done", f"{stage}: {how} on pool {pool}")
            return outcome
        ledger.close_lost(parent, stage)
        if not state.is_crashed():
            break
        progress.tell(f"{stage}: attempt {attempt} of {ATTEMPTS} was lost with its worker ({state.message})")
    progress.announce(stage, "failed", f"{stage}: failed on pool {pool}")
    raise RuntimeError(f"{stage}: its flow run on pool {pool} ended as {state.name}: {state.message}")


def require_parent(ledger: Ledger, parent: str) -> None:
    """Raises UserError if the run for which a stage is run is not in this worker's ledger."""
    from mlflow.exceptions import MlflowException

    try:
        ledger.client.get_run(parent)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise UserError(
            f"run {parent}, for which this stage is, is not in {ledger.uri}.\nGive the workers of all pools the same MLFLOW_TRACKING_URI."
        ) from error


def leave_outcome(ledger: Ledger, parent: str, outcome: Outcome) -> None:
    """Put a stage's outcome with its parent's run."""
    ledger.client.log_dict(parent, outcome.model_dump(mode="json"), _place(outcome.stage))


def outcome_of(ledger: Ledger, parent: str, stage: str) -> Outcome:
    """What `leave_outcome` put there."""
    return Outcome.model_validate_json(ledger.read(parent, _place(stage)))


def _place(stage: str) -> str:
    return f"outcomes/{stage}.json"


def _run(stage: str, pool: str, parameters: dict[str, Any]) -> State:
    """The final state of a new flow run. It is cancelled if this one ends before."""
    from prefect.deployments import run_deployment
    from prefect.exceptions import ObjectNotFound

    name = f"{FLOW}/{pool}"
    # A request whose answer was lost is repeated, and must not start a second one.
    key = str(uuid.uuid4())
    try:
        started: Any = _patiently(lambda: run_deployment(name, parameters=parameters, timeout=0, idempotency_key=key))
    except ObjectNotFound as error:
        raise UserError(
            f"placement=pools, but the Prefect server has no deployment {name}.\n"
            "Deploy (moslim up does; docs/operations.md for several machines), or set placement=inline."
        ) from error
    progress.announce(stage, "running", f"{stage}: flow run {started.name} on pool {pool}")
    try:
        return _final_state(started.id, stage)
    except BaseException:
        _cancel(started.id)
        raise


def _final_state(flow_run: UUID, stage: str) -> State:
    from prefect.client.orchestration import get_client

    told = None
    with get_client(sync_client=True) as client:
        while True:
            state = _patiently(lambda: client.read_flow_run(flow_run)).state
            if state is not None and state.is_final():
                return state
            if state is not None and state.name != told:
                told = state.name
                progress.tell(f"{stage}: flow run {flow_run} is {told}")
            time.sleep(POLL_SECONDS)


def _cancel(flow_run: UUID) -> None:
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    with contextlib.suppress(httpx.HTTPError), get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run, Cancelling(message="what it was run for has ended"))


def _patiently(ask: Callable[[], Any]) -> Any:
    """What the server answers, however long it is away."""
    import httpx

    while True:
        require_going()
        try:
            return ask()
        except httpx.TransportError as error:
            log.warning("Prefect does not answer, asking again: %s", error)
            time.sleep(POLL_SECONDS)
