"""What Prefect's form offers, and what comes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.utilities.callables import parameter_schema
from pydantic import TypeAdapter, ValidationError

from flows import profile as profiles
from flows.align import align
from flows.compare import compare
from flows.form import Form, FromProfile, filled_in, form_of
from flows.retrain import retrain
from moslim_core.errors import UserError
from moslim_core.settings import Settings

READER: TypeAdapter[FromProfile | Settings] = TypeAdapter(Form)


@pytest.mark.parametrize("flow", [align, compare, retrain], ids=lambda flow: flow.name)
def test_every_parameter_has_a_help_text_and_settings_have_tabs(flow: object) -> None:
    schema = parameter_schema(flow)  # type: ignore[arg-type]
    assert all(of["description"] for of in schema.properties.values())
    kinds = [schema.definitions[kind["$ref"].rsplit("/", 1)[1]] for kind in schema.properties["settings"]["anyOf"]]
    assert [kind["title"] for kind in kinds] == ["A profile", "Every setting"]
    assert kinds[0]["properties"]["profile"]["enum"] == profiles.packaged()
    assert all(f"{name}: {profiles.about(name)}" in kinds[0]["properties"]["profile"]["description"] for name in profiles.packaged())
    assert schema.definitions["PolicySettings"]["properties"]["steps"]["minimum"] == 1


def test_a_profile_with_changes_is_what_the_command_line_makes_of_them(tmp_path: Path) -> None:
    form = READER.validate_python({"profile": "demo", "work_dir": str(tmp_path), "set": ["policy.steps=7"]})
    assert filled_in(form) == profiles.load("demo", [f"work_dir={tmp_path}", "policy.steps=7"])
    assert filled_in(profiles.load("demo", [f"work_dir={tmp_path}"])).work_dir == tmp_path
    with pytest.raises(UserError, match=r"did you mean policy\.steps"):
        filled_in(FromProfile(work_dir=tmp_path, set=("policy.stepz=7",)))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "mine.yaml"])
def test_a_form_names_no_file_as_its_profile(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as caught:
        READER.validate_python({"profile": name, "work_dir": str(tmp_path)})
    # About the tab that was filled in, and not about the other one too.
    assert [error["loc"][:2] for error in caught.value.errors()] == [("profile", "profile")]


def test_a_profile_as_it_is_stays_a_name_and_a_changed_one_fills_in_everything(tmp_path: Path) -> None:
    here = f"work_dir={tmp_path}"
    assert form_of(profiles.load("demo", [here]), "demo") == FromProfile(profile="demo", work_dir=tmp_path)
    changed = profiles.load("demo", [here, "policy.steps=9"])
    assert form_of(changed, "demo") == form_of(changed, "mine.yaml") == changed
