"""What Prefect's form offers, and what comes of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.utilities.callables import parameter_schema
from pydantic import TypeAdapter, ValidationError

from flows import profile as profiles
from flows.align import align
from flows.compare import compare
from flows.compare_systems import compare_systems
from flows.form import Form, FromFile, FromProfile, filled_in, form_of, name_of
from flows.retrain import retrain
from flows.stage import stage
from moslim_core.errors import UserError
from moslim_core.settings import Settings
from tests.flow.conftest import served
from tests.flow.test_up import ask

READER: TypeAdapter[FromProfile | FromFile | Settings] = TypeAdapter(Form)


@pytest.mark.parametrize("flow", [align, compare, retrain], ids=lambda flow: flow.name)
def test_every_parameter_has_a_help_text_and_settings_have_tabs(flow: object) -> None:
    schema = parameter_schema(flow)  # type: ignore[arg-type]
    assert all(of["description"] for of in schema.properties.values())
    kinds = [schema.definitions[kind["$ref"].rsplit("/", 1)[1]] for kind in schema.properties["settings"]["anyOf"]]
    assert [kind["title"] for kind in kinds] == ["A file of yours", "A packaged profile", "Every setting"]
    assert kinds[1]["properties"]["profile"]["enum"] == profiles.packaged()
    assert all(f"{name}: {profiles.about(name)}" in kinds[1]["properties"]["profile"]["description"] for name in profiles.packaged())
    assert schema.definitions["PolicySettings"]["properties"]["steps"]["minimum"] == 1


def test_a_profile_with_changes_is_what_the_command_line_makes_of_them(tmp_path: Path) -> None:
    form = READER.validate_python({"profile": "demo", "work_dir": str(tmp_path), "set": ["policy.steps=7"]})
    assert filled_in(form) == profiles.load("demo", [f"work_dir={tmp_path}", "policy.steps=7"])
    assert filled_in(profiles.load("demo", [f"work_dir={tmp_path}"])).work_dir == tmp_path
    with pytest.raises(UserError, match=r"did you mean policy\.steps"):
        filled_in(FromProfile(work_dir=tmp_path, set=("policy.stepz=7",)))


def test_a_profile_of_ones_own_is_a_file_on_the_worker(tmp_path: Path) -> None:
    text = files("flows").joinpath("profiles", "demo.yaml").read_text(encoding="utf-8").replace("steps: 12", "steps: 9")
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    wanted = profiles.load("demo", [f"work_dir={tmp_path}", "policy.steps=9"])
    for name in ("mine.yaml", str(tmp_path / "mine.yaml")):
        assert filled_in(READER.validate_python({"file": name, "work_dir": str(tmp_path)})) == wanted
    with pytest.raises(UserError, match=r"missing\.yaml.*no such profile or file"):
        filled_in(READER.validate_python({"file": "missing.yaml", "work_dir": str(tmp_path)}))


@pytest.mark.parametrize("kind", ["profile", "file"])
@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "mine", ""])
def test_a_form_reads_no_file_that_is_no_profile(name: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as caught:
        READER.validate_python({kind: name, "work_dir": str(tmp_path)})
    # About the tab that was filled in, and not about the others too.
    assert [error["loc"][:2] for error in caught.value.errors()] == [(kind, kind)]


def test_a_profile_as_it_is_stays_a_name_and_a_changed_one_fills_in_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = f"work_dir={tmp_path}"
    assert form_of(profiles.load("demo", [here]), "demo") == FromProfile(profile="demo", work_dir=tmp_path)
    text = files("flows").joinpath("profiles", "demo.yaml").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name in ("mine.yaml", "mine.profile"):
        (tmp_path / name).write_text(text, encoding="utf-8")
    mine = profiles.load("mine.yaml", [here])
    form = form_of(mine, "mine.yaml")
    assert form == FromFile(file=str(tmp_path / "mine.yaml"), work_dir=tmp_path)
    assert name_of(form, filled_in(form), "report").startswith("mine, ")
    assert form_of(mine, "mine.profile") == mine, "a form's file is YAML or JSON by its name"
    changed = profiles.load("demo", [here, "policy.steps=9"])
    assert form_of(changed, "demo") == form_of(changed, "mine.yaml") == changed


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_what_is_wrong_in_a_form_is_what_its_flow_failed_with(
    tmp_path: Path, prepared: Callable[[Path], Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow_runs = logging.getLogger("prefect.flow_runs")
    monkeypatch.setattr(flow_runs, "handlers", [*flow_runs.handlers, caplog.handler])
    calls: dict[Flow[..., Any], dict[str, Any]] = {
        align: {},
        compare: {"over": "reward.head=classification,ordinal", "seeds": [0]},
        compare_systems: {"baselines": ["all"], "seeds": [0]},
        retrain: {},
    }
    work_dir = prepared(tmp_path / "work")
    form = FromProfile(work_dir=work_dir, set=("policy.stepz=7",))
    form_settings = profiles.load("demo", [f"work_dir={work_dir}"])
    says = "unknown setting 'policy.stepz' (profile demo): did you mean policy.steps?"
    with served(work_dir) as api:
        for flow, arguments in calls.items():
            state = flow(form, **arguments, return_state=True)
            kept = ask(api, f"/flow_runs/{state.state_details.flow_run_id}")["state"]
            assert (kept["type"], kept["message"]) == ("FAILED", says)
        with pytest.raises(UserError) as caught:
            align(form)
        assert str(caught.value) == says
        # A stage on a pool gets settings that were checked, and a parent that its ledger may lack.
        state = stage(form_settings, "label", {}, "0" * 32, return_state=True)
        kept = ask(api, f"/flow_runs/{state.state_details.flow_run_id}")["state"]
        assert kept["type"] == "FAILED" and kept["message"].startswith(f"run {'0' * 32}, for which this stage is, is not in ")
    assert says in caplog.text and "Traceback" not in caplog.text
