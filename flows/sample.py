"""Flow `sample`: prompts without ratings -> answers under wishes for every level, labelled: rated rows to train on."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Annotated

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, Field

from flows.cli.sample import by_level, drawn
from flows.failed_state import failed_on_user_error
from flows.form import Form, filled_in
from moslim_core.data.rows import Row
from moslim_core.models.identity import public_name
from moslim_core.settings import Settings
from moslim_core.settings_section import Section
from tasks.display.prefect_page import entitle
from tasks.execution.stage import compute
from tasks.surroundings import on_worker
from tasks.surroundings.progress import progress


class Served(Section):
    """A chat model behind an OpenAI-compatible address."""

    url: str = Field(title="Address", description="http://HOST:PORT/v1 or https://HOST/v1, without a key in it")
    model: str = Field(title="Model", description="the model's name there")


class Sampled(BaseModel):
    """The file of rated rows, how many it has, and how many answers were left out, by reason."""

    output: Path
    rows: int
    left_out: dict[str, int]


@flow(name="sample")
@failed_on_user_error
def sample(
    settings: Form,
    prompts: Path,
    answers: Annotated[int, Field(ge=1)] = 8,
    output: Path = Path("rows.jsonl"),
    endpoint: Served | None = None,
) -> Sampled:
    """Draw answers to prompts under wishes for every level, and label them; a run that was cut short goes on where it stopped.

    Args:
        settings: whose chat model draws and who says the levels: a profile, yours or packaged, with changes, or every setting by itself
        prompts: the file to read: CSV, TSV, JSON lines or Parquet with a column prompt; a relative path is below the work directory
        answers: how many to each prompt, each under a wish for one level
        output: the new file of rated rows, JSON lines; a relative path is below the work directory
        endpoint: draw from an OpenAI-compatible address in place of the profile's chat model
    """
    settings = filled_in(settings)
    prompts, output = (settings.work_dir / os.path.expanduser(path) for path in (prompts, output))
    entitle(f"{prompts.name}, {answers} answers each", [public_name(endpoint.model if endpoint else settings.model.base)])
    # Prefect shows the progress of tasks.
    rows, left_out = task(name="sample", cache_policy=NO_CACHE)(_draw)(settings, prompts, answers, output, endpoint)
    _show(rows, settings, output)
    get_run_logger().info("%d rows: %s; to train on them set data.source=jsonl and data.path to it", len(rows), output)
    return Sampled(output=output, rows=len(rows), left_out=left_out)


def _draw(settings: Settings, prompts: Path, answers: int, output: Path, endpoint: Served | None) -> tuple[list[Row], Counter[str]]:
    def on_progress(done: int, total: int) -> None:
        progress("sample", f"prompts with {answers} answers each", done, total)

    with on_worker.slot("gpu" if compute(settings)[0] == "cuda" else "cpu"):
        return drawn(settings, prompts, answers, output, (endpoint.url, endpoint.model) if endpoint else None, on_progress)


def _show(rows: list[Row], settings: Settings, output: Path) -> None:
    from prefect.artifacts import create_table_artifact

    schema = settings.preferences
    table = [
        {"preference": name, "level": f"{level} {schema[name].label(level)}", "rows": count, "advice": few}
        for name, level, count, few in by_level(rows, schema)
    ]
    create_table_artifact(table, key="levels", description=f"Rows by level in {output}.")
