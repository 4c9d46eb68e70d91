"""Ratings and the rows that trained a policy, in one profile that runs as it is."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import profile
from flows.cli import commands, init_profile
from flows.cli.printed_commands import called, command
from flows.studio import training_profile
from flows.studio.ratings import Ratings
from moslim_core.data.prepare import prepare
from moslim_core.data.rows import Row, load_rows
from moslim_core.errors import UserError
from moslim_core.settings import Settings
from moslim_core.settings_section import changed
from moslim_core.training.progress import Progress
from tasks.ledger.of_work_dir import ledger_of
from tasks.ledger.pipeline import open_pipeline, settings_of
from tests.studio.made import SCHEMA

# What makes rows' levels and names of columns as odd as they get.
ODD = [
    "data.source=csv,jsonl",
    'data.columns.labels={"csv.verbosity": {"column": "länge (1-5)", "levels": {"very short!": 1, "1.5": null}}, "warmth": '
    '{"thresholds": [1.5, 2]}}',
    "mapping.weights={verbosity: 0.5}",
    "policy.learning_rate=1.5e-4",
    "evaluation.targets={warmth: 2}",
]
FOLLOW_UP = [
    {"role": "user", "content": "Snow?"},
    {"role": "assistant", "content": 'Yes, "much".'},
    {"role": "user", "content": "And rain, too?"},
]

Labelled = Callable[[Path], tuple[Settings, list[Row]]]
Recorded = Callable[[Settings], Mapping[str, Any]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """What a run with given settings has on record of them."""
    work_dir = tmp_path_factory.mktemp("ledger")

    def recorded(settings: Settings) -> Mapping[str, Any]:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("MLFLOW_TRACKING_URI", raising=False)
            run_id = open_pipeline(changed(settings, work_dir=work_dir), "report", "mine")
            return settings_of(ledger_of(work_dir), run_id)

    return recorded


@pytest.fixture
def label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Labelled:
    """The settings of the printed command and the rows that its label stage writes."""
    asked: list[Settings] = []
    monkeypatch.setattr("flows.cli.console.run_with_display", lambda settings, *_: asked.append(settings))

    def label(file: Path) -> tuple[Settings, list[Row]]:
        words = shlex.split(command("label", "--profile", str(file)))
        # From another folder than the one that it was printed in.
        monkeypatch.chdir(tmp_path)
        result = CliRunner().invoke(commands.app, words[len(shlex.split(called())) :])
        assert result.exit_code == 0, result.output
        output = tmp_path / f"rows{len(asked)}"
        prepare(asked[-1], output, tmp_path / "cache", Progress(None))
        return asked[-1], [row for split in output.glob("*.jsonl") if not split.name.startswith("prompts") for row in load_rows(split)]

    return label


def own_file(folder: Path, form: str) -> Path:
    rows = [
        {"question": f"What of number {n} of all?", "reply": f"It is {n}, I say.", "tone": ["icy", "kind", "icy"][n % 3]} for n in range(60)
    ]
    file = folder / f"own.{form}"
    with file.open("w", newline="") as written:
        if form == "jsonl":
            written.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            table = csv.DictWriter(written, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    return file


def own_profile(folder: Path, form: str, changes: Sequence[str]) -> Settings:
    """Of `moslim init`, whose columns are called otherwise than the studio's."""
    init_profile.write(own_file(folder, form), folder / "mine.yaml", ["tone=icy,kind"])
    return profile.load(str(folder / "mine.yaml"), changes)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_own_rows_under_other_names_and_ratings_are_labelled_together_again_and_again(
    form: str, tmp_path: Path, tiny_chat: Path, recorded: Recorded, label: Labelled
) -> None:
    work_dir = tmp_path / "a b"
    settings = own_profile(tmp_path, form, [f"model.base={tiny_chat}", f"work_dir={work_dir}", "policy.max_prompt_tokens=300"])
    ratings = Ratings(work_dir / "studio", settings.preferences)
    ratings.add(FOLLOW_UP, "Rain,\nand hail.", {"tone": 2})
    ratings.add([{"role": "user", "content": "Wind?"}], "No.", {"tone": 1})
    for further in range(2):
        file = training_profile.write(recorded(settings), ratings, work_dir)
        assert file is not None
        settings, rows = label(file)
        assert len(rows) == 62 + further
        of = {row.response: row for row in rows if row.source == "studio"}
        assert (of["Rain,\nand hail."].prompt, of["Rain,\nand hail."].labels) == (FOLLOW_UP, {"tone": 2})
        assert of["No."].labels == {"tone": 1} and len(of) == 2 + further
        own = {row.response: row.labels for row in rows if row.source != "studio"}
        assert own["It is 1, I say."] == {"tone": 2} and own["It is 2, I say."] == {"tone": 1} and len(own) == 60
        # The policy that this profile trains is rated, too.
        ratings.add([{"role": "user", "content": "Fog?"}], "A lot.", {"tone": 2})
    assert settings.work_dir == work_dir and settings.policy.max_prompt_tokens == 300


def test_of_a_policy_of_the_demo_the_packaged_rows_stay(tmp_path: Path, tiny_chat: Path, recorded: Recorded, label: Labelled) -> None:
    quick = [f"model.base={tiny_chat}", "policy.max_prompt_tokens=500", "data.near_duplicates=1"]
    settings = profile.load("demo", [f"work_dir={tmp_path / 'work'}", *quick])
    ratings = Ratings(settings.work_dir / "studio", settings.preferences)
    ratings.add(FOLLOW_UP, "Rain.", {"warmth": 3, "verbosity": None})
    file = training_profile.write(recorded(settings), ratings, settings.work_dir)
    assert file is not None
    again, rows = label(file)
    assert again.content()["data"]["source"] == ["starter", "jsonl"] and again.policy == settings.policy
    (rated,) = [row for row in rows if row.source == "studio"]
    assert rated.labels == {"warmth": 3} and len(rows) > 1000


@pytest.mark.parametrize("name", profile.packaged())
def test_settings_are_read_from_what_their_run_has_on_record(name: str, tmp_path: Path, recorded: Recorded) -> None:
    path = f"data.path={tmp_path}"
    settings = profile.load(name, [path, *(ODD if name == "demo" else [])])
    assert training_profile.settings_of(recorded(settings), settings.preferences) == profile.override(
        settings, [f"work_dir={Settings.model_fields['work_dir'].default}"]
    )


def test_no_record_makes_no_profile_and_forms_that_are_taken_are_said(tmp_path: Path) -> None:
    ratings = Ratings(tmp_path / "studio", SCHEMA)
    ratings.add(FOLLOW_UP, "Rain.", {"warmth": 2})
    other: dict[str, Any] = {"policy": {"a_setting_of_another_version": 1}, "seed": 1}
    for settings in ({}, other):
        assert training_profile.write(settings, ratings, tmp_path) is None
    with pytest.raises(UserError, match="own rows are in jsonl and csv files"):
        training_profile.write({"data": {"source": ["jsonl", "csv"], "path": str(tmp_path)}}, ratings, tmp_path)
    assert not (tmp_path / "studio" / training_profile.FOLDER).exists()
    with pytest.raises(UserError, match=r"own rows, .*gone.csv, are not there any more"):
        training_profile.write({"data": {"source": ["csv"], "path": str(tmp_path / "gone.csv")}}, ratings, tmp_path)
