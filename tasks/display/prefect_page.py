"""What Prefect's page of a flow run shows: its name and tags, the headline, the control curves, links to the runs in MLflow."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moslim_core.preferences import PreferenceSchema
from tasks.ledger.ledger import Ledger
from tasks.ledger.mlflow_pages import link
from tasks.ledger.overview import stages_table, told
from tasks.ledger.references import Outcome
from tasks.stages.evaluate import SYSTEMS
from tasks.surroundings.progress import server_may_be_away

if TYPE_CHECKING:
    from moslim_core.evaluation.controllability import Controllability


def entitle(name: str, tags: Collection[str]) -> None:
    """Call the flow run that this is called from `name`, and add `tags` to those that it has."""
    from prefect.client.orchestration import get_client
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    with server_may_be_away(), get_client(sync_client=True) as client:
        client.update_flow_run(context.flow_run.id, name=name, tags={*context.flow_run.tags, *tags})


def show_report(
    page: Path, summary: Mapping[str, Any], outcomes: Mapping[str, Outcome], evaluation: Path, run_id: str, ledger: Ledger
) -> None:
    """The report's words with links to the runs in MLflow, its control as a table."""
    from prefect.artifacts import create_markdown_artifact, create_table_artifact

    from moslim_core.evaluation.suite import read_control

    create_markdown_artifact(
        f"{told(summary)}\n\nThe whole report: `{page}`, and with {link(ledger, run_id, 'the run in MLflow')}, while that is served.\n\n"
        + stages_table(outcomes, partial(link, ledger)),
        key="report",
        description=summary["headline"],
    )
    before, after = (read_control(evaluation, system) for system in SYSTEMS)
    create_table_artifact(
        [
            {
                "preference": name,
                "Spearman, starting model": str(before.preferences[name].spearman),
                "Spearman, policy": str(control.spearman),
                "MAE, starting model": str(before.preferences[name].mae),
                "MAE, policy": str(control.mae),
            }
            for name, control in after.preferences.items()
        ],
        key="controllability",
        description="Requested against obtained levels, 95 % intervals.",
    )


def show_comparison(words: str, page: Path, run_id: str, ledger: Ledger) -> None:
    """What a comparison says, with where its page is and a link to its run in MLflow."""
    from prefect.artifacts import create_markdown_artifact

    create_markdown_artifact(
        f"{words}\n\nThe whole page: `{page}`, and with {link(ledger, run_id, 'the run in MLflow')}, while that is served.",
        key="comparison",
        description=words.partition("\n")[0].strip("*"),
    )


def show_curves(preferences: PreferenceSchema, systems: Mapping[str, Controllability], key: str) -> None:
    """Requested against obtained levels of `systems` as a picture; nothing where no preference is steered."""
    from prefect.artifacts import create_image_artifact

    from moslim_core.report import curves, save_png

    if not systems or all(preference.is_guard for preference in preferences.preferences):
        return
    file = BytesIO()
    save_png(curves(preferences, systems), file)
    # In the address itself: no server has to be there to show it.
    address = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    create_image_artifact(address, key=key, description="Requested against obtained levels, 95 % intervals.")
