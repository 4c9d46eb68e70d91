"""Profiles load, and what can't be understood is met with the key and the near one."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import profile as profiles
from moslim_core.errors import UserError
from moslim_core.settings import Settings


@pytest.mark.parametrize("name", profiles.packaged())
def test_packaged_profiles_load(name: str) -> None:
    settings = profiles.load(name)
    assert Settings.model_validate(settings.dump()) == settings


def test_demo_and_three_h_are_packaged() -> None:
    assert {"demo", "three-h"} <= set(profiles.packaged())


def test_demo_can_be_judged_by_rules() -> None:
    settings = profiles.load("demo")
    assert settings.evaluation.judge == "annotators"
    assert all(p.annotator for p in settings.preferences.preferences)


def test_three_h_has_a_guard_and_masks_what_says_neither() -> None:
    settings = profiles.load("three-h")
    assert [p.is_guard for p in settings.preferences.preferences] == [False, False, True]
    assert settings.data.columns.labels["harmlessness"].levels["2"] is None


def test_overrides_are_yaml_values(tmp_path: Path) -> None:
    settings = profiles.load("demo", ["policy.steps=7", "mapping.weights={warmth: 2}", "data.path=rows.jsonl", "reward.layers=null"])
    assert settings.policy.steps == 7
    assert settings.mapping.weights == {"warmth": 2.0}
    assert settings.reward.layers is None
    assert settings.data.path == Path.cwd() / "rows.jsonl"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("policy.stepps=3", "unknown setting 'policy.stepps' (profile demo): did you mean policy.steps?"),
        ("polcy.steps=3", "unknown setting 'polcy' (profile demo): did you mean policy?"),
        ("data.columns.promt=q", "did you mean data.columns.prompt?"),
        ("reward.zzz=1", "unknown setting 'reward.zzz' (profile demo): known here: backbone, layers, head, applicability"),
        ("policy.steps=many", "setting 'policy.steps' (profile demo): Input should be a valid integer"),
        ("policy.steps=0", "setting 'policy.steps' (profile demo): Input should be greater than or equal to 1; got '0'"),
        ("mapping.utility=ordnal", "setting 'mapping.utility' (profile demo): Input should be 'target_probability'"),
        ("policy=3", "setting 'policy' (profile demo)"),
        ("policy.steps.more=3", "steps is not a section"),
        ("policy.steps", "write key=value"),
        ("policy.steps={", "the value is not YAML"),
    ],
)
def test_override_that_is_not_understood_names_the_key(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        profiles.load("demo", [override])
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_profile_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("preferences: [{name: tone, levels: [dry, wry]}]\ndata: {source: jsonl, path: rows.jsonl}\n")
    with pytest.raises(UserError, match=r"judge=annotators, but tone has no annotator.*\nGive it one"):
        profiles.load(str(path))
    settings = profiles.load(str(path), ["evaluation.judge=reward_model"])
    assert settings.preferences.names == ("tone",)
    assert settings.data.path == tmp_path / "rows.jsonl"  # relative to the profile


def test_accelerate_is_a_packaged_name_or_a_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    common = "preferences: [{name: tone, levels: [dry, wry]}]\nevaluation: {judge: reward_model}\n"
    for given, expected in (("ddp", "ddp"), ("two.yaml", tmp_path / "two.yaml"), ("./ddp", tmp_path / "ddp")):
        path.write_text(f"{common}policy: {{accelerate: {given}, prompts: p.jsonl}}\n")
        settings = profiles.load(str(path))
        assert settings.policy.accelerate == expected and settings.policy.prompts == tmp_path / "p.jsonl"
        assert Settings.model_validate_json(settings.model_dump_json()) == settings
    assert profiles.load("demo", ["policy.accelerate=two.yaml"]).policy.accelerate == Path.cwd() / "two.yaml"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML"),
        ("- 1", "a mapping of settings is needed"),
        ("", "a mapping of settings is needed"),
        ("seed: 1", "setting 'preferences'"),
        ("preferences: [{name: tone, levels: [dry]}]", "'tone' has 1 level: at least 2 are needed"),
        ("preferences: [{name: tone, levels: [a, b], flor: 2}]", "unknown setting 'preferences.0.flor'"),
    ],
)
def test_profile_file_that_makes_no_sense_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        profiles.load(str(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_unknown_profile_lists_the_packaged_ones() -> None:
    with pytest.raises(UserError, match=r"no such profile or file\.\nPackaged profiles: .*demo"):
        profiles.load("dmo")


def test_settings_that_contradict_each_other_are_named() -> None:
    with pytest.raises(UserError, match=r"mapping\.weights names wamth"):
        profiles.load("demo", ["mapping.weights={wamth: 2}"])
