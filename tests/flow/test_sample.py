"""Answers drawn by a flow: where its files lie, what its page shows, what its form says."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.utilities.callables import parameter_schema

from flows import profile as profiles
from flows.sample import Served, sample
from moslim_core.errors import UserError
from moslim_core.settings import Settings
from tests.core.chat_server import says, serving
from tests.flow.conftest import served
from tests.flow.test_up import ask


@pytest.fixture(scope="module")
def settings(profile: Path, prepared: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """With a Prefect server of the work directory that the flow reports to."""
    work_dir = prepared(tmp_path_factory.mktemp("sample"))
    with served(work_dir):
        yield profiles.load(str(profile), [f"work_dir={work_dir}"])


def test_every_parameter_has_a_help_text() -> None:
    schema = parameter_schema(sample)
    assert set(schema.required) == {"settings", "prompts"}
    assert all(of["description"] for of in schema.properties.values())
    assert schema.properties["answers"]["minimum"] == 1
    assert all(of["description"] for of in schema.definitions["Served"]["properties"].values())


@pytest.mark.integration
def test_rows_lie_in_the_work_directory_and_the_page_shows_their_spread(settings: Settings) -> None:
    home = settings.work_dir
    home.joinpath("prompts.jsonl").write_text("".join(json.dumps({"prompt": f"What is thing {n}?"}) + "\n" for n in range(12)))
    with serving(lambda request: says(f"It is {request.asked.replace('?', '')}.")) as server:
        found = sample(settings, Path("prompts.jsonl"), 2, endpoint=Served(url=server.url, model="m"))
    lines = (home / "rows.jsonl").read_text().splitlines()
    assert found.output == home / "rows.jsonl" and found.rows == len(lines) == 24 - sum(found.left_out.values())
    shown = {of["key"]: of for of in ask(os.environ["PREFECT_API_URL"], "/artifacts/latest/filter", {})}
    table = json.loads(shown["levels"]["data"])
    assert [(row["preference"], row["level"]) for row in table] == [
        ("length", "1 short"), ("length", "2 middling"), ("length", "3 long"), ("mood", "1 sad"), ("mood", "2 glad"),
    ]  # fmt: skip
    lengths = [json.loads(line)["length"] for line in lines]
    assert [row["rows"] for row in table[:3]] == [lengths.count(level) for level in (1, 2, 3)]
    assert {bool(row["advice"]) for row in table if row["rows"] < 10} == {True}
    with pytest.raises(UserError, match="is there already"):
        sample(settings, Path("prompts.jsonl"))
