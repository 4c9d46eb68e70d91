"""What a run's models can't do is said before its first stage, without their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows import profile
from flows.cli.doctor import check
from moslim_core.errors import UserError
from moslim_core.models import devices
from moslim_core.preflight import check_models
from moslim_core.settings import Settings
from tasks.ledger.ledger import Ledger
from tests.odd import tiny_models as tiny


def settings(base: Path, **sections: Any) -> Settings:
    plain = {"preferences": tiny.PREFERENCES, "model": {"base": str(base), "device": "cpu"}, "reward": {"backbone": str(base)}}
    return Settings.model_validate(plain | sections)


def test_what_is_fit_passes_and_doctor_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "bfloat16_time_ratio", lambda: 1.0)
    base = tiny.chat(tmp_path)
    fit = settings(base, work_dir=tmp_path, evaluation={"judge": "reward_model"})
    check_models(fit, tmp_path)
    check(tmp_path, fit)
    said = capsys.readouterr().out
    assert f"ok       model.base {base}" in said and f"ok       reward.backbone {base}" in said
    tiny.change_tensors(base / "model.safetensors", lambda t: t.pop("model.norm.weight"))
    assert not check(tmp_path, fit)
    assert "tensors are missing (first model.norm.weight)" in capsys.readouterr().out


def test_rows_and_prompts_that_are_not_there(tmp_path: Path) -> None:
    base = tiny.chat(tmp_path)
    for sections, words in (
        ({"data": {"source": ["csv"], "path": "nowhere.csv"}}, "data.path=nowhere.csv: there is no such file"),
        ({"data": {"source": ["csv"]}}, "data.source=csv needs data.path"),
        ({"policy": {"prompts": "nowhere.jsonl"}}, "policy.prompts=nowhere.jsonl: there is no such file"),
    ):
        with pytest.raises(UserError, match=words):
            check_models(settings(base, **sections), tmp_path)


def test_doctor_in_a_folder_that_was_used_and_where_none_can_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "bfloat16_time_ratio", lambda: 1.0)
    monkeypatch.chdir(tmp_path)
    Ledger(tmp_path / "used")
    demo = profile.load("demo", ["work_dir=used"])
    assert check(demo.work_dir, demo)
    assert "GB of memory for this run" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    for place in ("file", "/proc/none"):
        assert not check(Path(place))
        assert f"MISSING  work directory {Path(place).absolute()} can be written -> " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("evaluation", "words"),
    [
        ({"suite": ["xstest"], "data_dir": "nowhere"}, "evaluation.data_dir=nowhere: there is no such folder"),
        ({"suite": ["controllability", "xstest"], "data_dir": "."}, r"xstest_prompts\.csv: there is no such file"),
        ({"suite": ["mt_bench"]}, "evaluation.suite=mt_bench needs a language model as judge"),
    ],
)
def test_a_suite_that_nothing_can_come_of(evaluation: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = tiny.chat(tmp_path)
    with pytest.raises(UserError, match=words):
        check_models(settings(base, evaluation=evaluation), tmp_path, ["evaluate"])
    check_models(settings(base, evaluation={"suite": ["mt_bench", "known_answers"]}), tmp_path, ["evaluate"])


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"policy": {"max_new_tokens": 256}}, "policy.max_new_tokens=256"),
        ({"policy": {"lora_layers": 3}}, "policy.lora_layers=3"),
        ({"reward": {"layers": 3}}, "reward.layers=3"),
    ],
)
def test_what_the_models_are_too_small_for(sections: dict[str, Any], words: str, tmp_path: Path) -> None:
    base = tiny.chat(tmp_path)
    if "reward" in sections:
        sections = {"reward": {"backbone": str(base)} | sections["reward"]}
    with pytest.raises(UserError, match=words):
        check_models(settings(base, **sections), tmp_path)


def test_labelling_needs_no_weights(tmp_path: Path) -> None:
    base = tiny.chat(tmp_path)
    (base / "model.safetensors").unlink()
    check_models(settings(base), tmp_path, ("label",))
    with pytest.raises(UserError, match="could not be loaded"):
        check_models(settings(base), tmp_path)
