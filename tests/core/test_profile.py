"""Profiles load, and what can't be understood is met with the key and the near one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flows import profile as profiles
from flows.cli.printed_commands import command, with_settings
from moslim_core.data.settings import LabelColumn
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


def test_overrides_are_read_by_the_type_of_the_setting() -> None:
    settings = profiles.load(
        "demo",
        [
            "policy.steps=7", "policy.learning_rate=1e-3", "mapping.weights={warmth: 2}", 'evaluation.targets={"warmth": 3}',
            "data.path=rows #1.jsonl", "model.base=~/models/{x}: y", "reward.layers=null",
            "data.columns.labels={length: {column: yes, levels: {1_0: 2, no: null, 1:30: 1}}}", "evaluation.suite=xstest,halueval2",
            "policy.rated_answers=0.5", "policy.accelerate=ddp", "work_dir=~/a ? b", "data.columns.source=null",
        ],
    )  # fmt: skip
    assert (settings.policy.steps, settings.policy.learning_rate, settings.policy.rated_answers) == (7, 0.001, 0.5)
    assert settings.mapping.weights == {"warmth": 2.0} and settings.evaluation.targets == {"warmth": 3}
    assert settings.reward.layers is None and settings.data.columns.source is None
    assert settings.data.path == Path.cwd() / "rows #1.jsonl"
    assert settings.model.base == f"{Path.home()}/models/{{x}}: y" and settings.work_dir == Path.home() / "a ? b"
    assert settings.data.columns.labels == {"length": LabelColumn(column="yes", levels={"1_0": 2, "no": None, "1:30": 1})}
    assert settings.evaluation.suite == ("xstest", "halueval2") and settings.policy.accelerate == "ddp"
    thresholds = profiles.load("demo", ["data.columns.labels.warmth.thresholds=1, 2.5"]).data.columns.labels["warmth"].thresholds
    assert thresholds == (1.0, 2.5)


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("a #b")
@example("1_0")
@example("yes")
@example("{a: b}")
@example('"q"')
@example("2001-01-01")
@example("null")
def test_text_is_what_was_typed(text: str) -> None:
    assert profiles.load("demo", [f"data.columns.prompt={text}"]).data.columns.prompt == text


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(lambda t: t != "null" and t[0] != "~"))
def test_a_path_is_what_was_typed(text: str) -> None:
    assert profiles.load("demo", [f"data.path={text}"]).data.path == Path(text).absolute()


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=1e-300), st.integers(1, 10**9))
def test_numbers_are_what_was_typed(number: float, whole: int) -> None:
    policy = profiles.load("demo", [f"policy.learning_rate={number!r}", f"policy.lora_rank={whole}"]).policy
    assert (policy.learning_rate, policy.lora_rank) == (number, whole)


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
        ("mapping.weights={", "--set mapping.weights={: the value is neither JSON nor YAML"),
        ("mapping.weights=2", "setting 'mapping.weights' (profile demo): Input should be a valid dictionary"),
        ("policy.steps=1_0", "--set policy.steps=1_0: a whole number is needed"),
        ("policy.learning_rate=nan", "--set policy.learning_rate=nan: a number is needed"),
        ("policy.relabel=2", "setting 'policy.relabel' (profile demo): Input should be a valid boolean"),
        ("policy.engine=vlm", "setting 'policy.engine' (profile demo): Input should be 'auto', 'compiled'"),
        ("data.path=", "--set data.path=: a path is needed"),
        ("data.path=\udcff", "--set data.path: the value is not UTF-8 text"),
        ("evaluation.targets=" + "[" * 100_000, "the value is neither JSON nor YAML"),
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
    for name, expected in (("ddp", "ddp"), ("two.yaml", tmp_path / "two.yaml"), ("./ddp", tmp_path / "ddp")):
        path.write_text(f"{common}policy: {{accelerate: {name}, prompts: p.jsonl}}\n")
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
        ("data: {path: [5]}\npreferences: [{name: tone, levels: [a, b]}]", "setting 'data.path'"),
        ("policy: {beta: .inf}\npreferences: [{name: tone, levels: [a, b]}]", "setting 'policy.beta'"),
        ("policy: {steps: 1_0}\npreferences: [{name: tone, levels: [a, b]}]", "policy.steps=1_0: a whole number is needed"),
        ("policy: {steps: 1:30}\npreferences: [{name: tone, levels: [a, b]}]", "setting 'policy.steps'"),
        ("policy: {steps: 0x10}\npreferences: [{name: tone, levels: [a, b]}]", "setting 'policy.steps'"),
        ("policy: {beta: 1_000.5}\npreferences: [{name: tone, levels: [a, b]}]", "policy.beta=1_000.5: a number is needed"),
        ("policy: {relabel: 2}\npreferences: [{name: tone, levels: [a, b]}]", "setting 'policy.relabel'"),
        ("data: {path: ''}\npreferences: [{name: tone, levels: [a, b]}]", "data.path=: a path is needed"),
        ("seed: !!python/object:os.system {}\npreferences: [{name: tone, levels: [a, b]}]", "not YAML"),
        ('model: {base: "\\ud83d"}\npreferences: [{name: tone, levels: [a, b]}]', "model.base has half a character"),
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


def test_a_value_in_a_profile_means_what_a_reader_thinks(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        """
preferences:
  - {name: answer, levels: [no, yes], floor: 02}
  - {name: tone, levels: [Off, on], description: 2001-01-01}
data:
  path: ~
  columns: {prompt: 1_0, response: y, source: null, labels: {tone: {column: 1:30, levels: {1: 1, 2.0: 2, no: 1, ~: , 1_0: null}}}}
reward: {learning_rate: &rate 1e-4, epochs: 2}
policy: {beta: .5, gradient_checkpointing: no, relabel: off, normalise_advantages: yes, lora_layers: , learning_rate: *rate, steps: 010}
model: {base: "a \\ud83d\\ude00"}
evaluation: {judge: reward_model, suite: xstest}
"""
    )  # fmt: skip
    settings = profiles.load(str(tmp_path / "mine.yaml"))
    first, second = settings.preferences.preferences
    assert (first.levels, first.floor, second.levels, second.description) == (("no", "yes"), 2, ("Off", "on"), "2001-01-01")
    policy, columns = settings.policy, settings.data.columns
    assert (policy.beta, policy.gradient_checkpointing, policy.relabel, policy.normalise_advantages, policy.steps) == (
        0.5,
        False,
        False,
        True,
        10,
    )
    assert policy.lora_layers is None and policy.learning_rate == 1e-4 == settings.reward.learning_rate and settings.reward.epochs == 2.0
    assert (columns.prompt, columns.response, columns.source, settings.data.path) == ("1_0", "y", None, None)
    assert columns.labels["tone"] == LabelColumn(column="1:30", levels={"1": 1, "2.0": 2, "no": 1, "~": None, "1_0": None})
    assert settings.model.base == "a \U0001f600" and settings.evaluation.suite == ("xstest",)


def test_parts_of_a_profile_can_be_shared(tmp_path: Path) -> None:
    text = "preferences:\n  - &tone {name: tone, levels: [a, b]}\n  - {<<: *tone, name: style}\nevaluation: {judge: reward_model}\n"
    (tmp_path / "mine.yaml").write_text(text)
    assert [p.levels for p in profiles.load(str(tmp_path / "mine.yaml")).preferences.preferences] == [("a", "b")] * 2


def test_a_setting_is_given_once() -> None:
    with pytest.raises(UserError, match=r"--set policy\.steps is given twice, as 3 and as 4"):
        profiles.load("demo", ["policy.steps=3", "seed=1", "policy.steps=4"])
    assert profiles.load("demo", ["seed=1", "seed=1"]).seed == 1
    printed = with_settings("run", profile="demo", overrides=["seed=1", "policy.steps=3", "seed=2"])
    assert printed.endswith("run --profile demo --set seed=2 --set policy.steps=3")


def test_rows_in_place_of_a_profile_lead_to_init(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("prompt,response\n")
    with pytest.raises(UserError, match=r"that is a file of rows.\nWrite a profile for it: ") as caught:
        profiles.load(str(tmp_path / "own.csv"))
    assert str(caught.value).endswith(command("init", str(tmp_path / "own.csv")))


def test_unknown_profile_lists_the_packaged_ones() -> None:
    with pytest.raises(UserError, match=r"no such profile or file\.\nPackaged profiles: .*demo"):
        profiles.load("dmo")


def test_settings_that_contradict_each_other_are_named() -> None:
    with pytest.raises(UserError, match=r"mapping\.weights names wamth"):
        profiles.load("demo", ["mapping.weights={wamth: 2}"])
