"""New files in a model's folder are another model, the same files in another place are not: by every stage that reads a model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows.profile import load
from moslim_core.settings import Settings
from moslim_core.settings_section import changed
from tasks.execution import machine
from tasks.execution.stage import Stage, fingerprint
from tasks.stages import compare_systems, evaluate, label, train_policy, train_reward

CHAT = [label.STAGE, train_policy.STAGE, evaluate.STAGE, *compare_systems.stages().values()]


def settings_of(work: Path, *changes: str) -> Settings:
    fixed = ["model.dtype=float32", "model.device=cpu", f"work_dir={work}"]
    return load("demo", [*fixed, *changes])


def of(stage: Stage, work: Path, *changes: str) -> str:
    return fingerprint(stage, settings_of(work, *changes), {})


@pytest.mark.parametrize(
    ("stage", "key"),
    [
        *((stage, "model.base") for stage in CHAT),
        (train_reward.REWARD_STAGE, "reward.backbone"),
        (train_reward.JUDGE_STAGE, "reward.backbone"),
        (train_reward.JUDGE_STAGE, "evaluation.judge_backbone"),
    ],
    ids=lambda of: of.name if isinstance(of, Stage) else of,
)
def test_a_model_counts_by_its_content(stage: Stage, key: str, tiny_chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, work = Path(shutil.copytree(tiny_chat, tmp_path / "m")), tmp_path / "work"
    before = of(stage, work, f"{key}={model}")
    assert of(stage, work) != before, "another model"
    copy = shutil.copytree(model, tmp_path / "elsewhere" / "m")
    assert of(stage, work, f"{key}={copy}") == before
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for same in ("./m", "m", "~/m", f"{model}/"):
        assert of(stage, work, f"{key}={same}") == before
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    monkeypatch.chdir(copy.parent)
    assert of(stage, work, f"{key}=./m") != before, "./m is another model in another folder"
    shutil.copytree(copy, model, dirs_exist_ok=True)
    assert of(stage, work, f"{key}={model}") != before, "other weights in the same folder"
    (model / "README.md").write_text("about it")
    assert of(stage, work, f"{key}={model}") == of(stage, work, f"{key}={copy}")


def test_dtype_and_device_count_where_models_run(tiny_chat: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    models = [f"model.base={tiny_chat}", f"reward.backbone={tiny_encoder}"]
    by_reward_model = ["annotation.fill=reward_model", f"annotation.reward_model={tiny_encoder}"]

    def changes(stage: Stage, *more: str) -> bool:
        plain = settings_of(tmp_path, *models, *more)
        other = changed(plain, model=changed(plain.model, dtype="bfloat16"))
        return fingerprint(stage, plain, {}) != fingerprint(stage, other, {})

    assert not changes(label.STAGE)
    assert changes(label.STAGE, *by_reward_model) and changes(train_reward.REWARD_STAGE)


def test_a_reward_model_shares_the_base_whatever_the_base_is_called(tiny_chat: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_chat, tmp_path / "copy")
    asked = [f"model.base={tiny_chat}", "reward.tuning=lora", "reward.layers=null"]
    assert machine._shares_base(settings_of(tmp_path, *asked, f"reward.backbone={copy}"))
    assert not machine._shares_base(settings_of(tmp_path, *asked, f"reward.backbone={tiny_encoder}"))
    assert not machine._shares_base(settings_of(tmp_path, f"model.base={tiny_chat}", f"reward.backbone={copy}"))


def test_settings_hold_whole_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here/m", "there/m"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    given = ["model.base=./m", "reward.backbone=m", "evaluation.judge_backbone=../there/m", "evaluation.policy=./p"]
    settings = load("demo", given)
    assert (settings.model.base, settings.reward.backbone) == (str(tmp_path / "here/m"),) * 2
    assert settings.evaluation.judge_backbone == str(tmp_path / "here/../there/m")
    assert settings.evaluation.policy == str(tmp_path / "here/p")
    names = load("demo", ["model.base=owner/name", "reward.backbone=minilm-l6", "evaluation.policy=models:/policy@champion"])
    assert (names.model.base, names.reward.backbone) == ("owner/name", "minilm-l6")
    assert names.evaluation.policy == "models:/policy@champion"
    (tmp_path / "there" / "mine.yaml").write_text(
        "preferences: [{name: tone, levels: [dry, wry]}]\nmodel: {base: ./m}\nreward: {backbone: m}\nevaluation: {judge: reward_model}\n"
    )
    beside = load(str(tmp_path / "there" / "mine.yaml"))
    assert (beside.model.base, beside.reward.backbone) == (str(tmp_path / "there/m"),) * 2, "relative to the profile's file"
