"""`python -m flows.service.deploy [PREFECT.YAML]`: what a Prefect server needs to run this project's flows; again changes nothing.

Two work pools, a deployment per flow, and an automation that finds flow runs whose machine is gone.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from tasks.surroundings.network import reach_loopback

DEPLOYMENTS = Path(__file__).parents[2] / "deployments" / "prefect.yaml"
POOLS = ("cpu", "gpu")
LOST = "moslim: flow runs of a lost machine"
# Deployed flows give a sign of life every 30 seconds (deployments/prefect.yaml). A server that was away for a minute is no lost flow.
LOST_SECONDS = 120


def deploy(deployments: Path) -> None:
    """Make pools and automation as they have to be, and register the deployments of a file, with PREFECT_API_URL's server."""
    _make_pools()
    _watch()
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(deployments)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _make_pools() -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.workers.process import ProcessWorker

    with get_client(sync_client=True) as client:
        for pool in POOLS:
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template), overwrite=True)


def _watch() -> None:
    """A deployed flow run that gives no sign of life any more is Crashed, so that whoever waits for it runs it again."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    alive = "prefect.flow-run.heartbeat"
    ended = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    wanted = AutomationCore(
        name=LOST,
        trigger=EventTrigger(
            posture=Posture.Proactive,
            match={"prefect.resource.id": "prefect.flow-run.*"},
            # Other flows, those of the command line too, give a sign of life every three minutes only.
            match_related={"prefect.resource.id": "prefect.tag.moslim", "prefect.resource.role": "tag"},
            for_each={"prefect.resource.id"},
            after={alive},
            expect={alive, *ended},
            threshold=1,
            within=timedelta(seconds=LOST_SECONDS),
        ),
        actions=[
            ChangeFlowRunState(name=None, state=StateType.CRASHED, message=f"no sign of life for {LOST_SECONDS} seconds", force=False)
        ],
    )
    with get_client(sync_client=True) as client:
        known = client.read_automations_by_name(name=LOST)
        if known:
            client.update_automation(automation_id=known[0].id, automation=wanted)
        else:
            client.create_automation(automation=wanted)


if __name__ == "__main__":
    reach_loopback()
    deploy(Path(sys.argv[1]) if len(sys.argv) > 1 else DEPLOYMENTS)
