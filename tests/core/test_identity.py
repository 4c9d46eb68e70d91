"""A model is its content: the same wherever it lies and whatever it is called, another one as soon as a byte of it changes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from moslim_core import models
from moslim_core.errors import UserError
from moslim_core.models import identity
from moslim_core.models.identity import ModelId, content_digest, find, identify, public_name
from tests.conftest import Hub


@pytest.fixture
def model(tiny_chat: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_chat, tmp_path / "home" / "somebody" / "m"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def other_weights(folder: Path) -> None:
    """Other bytes under the same name, size and time of change."""
    file = folder / "model.safetensors"
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def write(name: str) -> Callable[[Path], object]:
    def act(folder: Path) -> object:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return file.write_text("other")

    return act


@pytest.mark.parametrize(
    "change",
    [
        other_weights,
        write("config.json"),
        write("generation_config.json"),
        write("tokenizer.json"),
        write("tokenizer_config.json"),
        write("chat_template.jinja"),
        write("additional_chat_templates/tools.jinja"),
        write("vocab.txt"),
        write("tokenizer.model"),
        write("adapter_config.json"),
        write("1_Pooling/config.json"),
        lambda folder: (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors"),
        lambda folder: (folder / "tokenizer.json").unlink(),
    ],
)
def test_whatever_loading_reads_makes_another_model(change: Callable[[Path], object], model: Path, cache: Path) -> None:
    before = identify(str(model), cache).id
    change(model)
    assert content_digest(model, cache) != before.digest


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        ".gitattributes",
        ".git/config.json",
        ".cache/huggingface/download/config.json.metadata",
        "model.safetensors.lock",
        "LICENSE.txt",
        "pytorch_model.bin",
        "trainer_state.json",
        "checkpoint-10/model.safetensors",
        "._config.json",
    ],
)
def test_what_loading_does_not_read_makes_no_other_model(name: str, model: Path, cache: Path) -> None:
    before = identify(str(model), cache).id
    write(name)(model)
    assert identify(str(model), cache).id == before


def test_the_same_files_elsewhere_are_the_same_model(model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = identify(str(model), cache)
    copy = shutil.copytree(model, tmp_path / "elsewhere")
    (link := tmp_path / "link").symlink_to(model)
    monkeypatch.chdir(model.parent)
    for place in (str(copy), str(link), "./m", "m"):
        assert identify(place, cache).id.digest == found.id.digest
    assert found.id.name == "m" and str(tmp_path) not in found.id.model_dump_json()


def test_large_files_are_read_once(model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "SETTLED", -1.0)
    before = content_digest(model, cache)
    reads = []
    real = identity.hashlib.file_digest
    monkeypatch.setattr(identity.hashlib, "file_digest", lambda *given: (reads.append(1), real(*given))[1])
    assert content_digest(model, cache) == before and not reads
    model.rename(model.with_name("moved"))
    assert content_digest(model.with_name("moved"), cache) == before
    for kept in (cache / "digests").iterdir():
        kept.write_text("cut")
    assert content_digest(model.with_name("moved"), cache) == before and reads


def test_a_file_that_may_still_be_written_is_not_taken_as_known(model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content_digest(model, cache)
    assert not list(cache.glob("digests/*")), "written a moment ago, its times may be those of two contents"
    monkeypatch.setattr(time, "time", lambda: os.stat(model).st_ctime + 60)
    content_digest(model, cache)
    assert list(cache.glob("digests/*"))


def test_a_cache_that_cannot_be_written_only_costs_time(model: Path, cache: Path) -> None:
    known = content_digest(model, cache)
    (blocked := cache.with_name("blocked")).write_text("a file")
    assert identify(str(model), blocked).id.digest == known


def test_packaged_and_hub_models_have_their_names(model: Path, cache: Path, hub: Hub) -> None:
    packaged = identify("smollm2-135m", cache).id
    assert packaged == ModelId(name="smollm2-135m", digest=models.PACKAGED["smollm2-135m"].sha256)
    hub.commit("owner/name", model, "a" * 40)
    of_hub = identify("owner/name", cache).id
    assert of_hub == ModelId(name="owner/name", digest=content_digest(model, cache), revision="a" * 40)
    other_weights(model)
    hub.commit("owner/name", model, "b" * 40)
    hub.forget()
    assert identify("owner/name", cache).id.digest != of_hub.digest
    found = find(of_hub, cache)
    assert found.id == of_hub and found.named == f"owner/name@{'a' * 40}", "a policy keeps the revision that it was trained on"


def test_a_base_is_found_by_its_content_wherever_it_was_seen(model: Path, cache: Path, tmp_path: Path) -> None:
    wanted = identify(str(model), cache).id
    assert find(wanted, cache).source == model
    moved = model.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"base model m \(content .*is not known here.*\nSay where it is: --base FOLDER"):
        find(wanted, cache)
    assert find(wanted, cache, str(moved)).source == moved
    assert find(wanted, cache).source == moved, "once said, it is known"
    other_weights(moved)
    with pytest.raises(UserError, match="base model m has changed"):
        find(wanted, cache)
    with pytest.raises(UserError, match="is not the model that was trained on"):
        find(wanted, cache, str(moved))


@pytest.mark.parametrize(
    ("named", "name"),
    [("smollm2-135m", "smollm2-135m"), ("owner/name", "owner/name"), ("owner/name@main", "owner/name"), ("/home/me/m", "m"), ("~/m/", "m")],
)
def test_a_public_name_leads_nowhere(named: str, name: str) -> None:
    assert public_name(named) == name
