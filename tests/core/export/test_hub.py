"""A push by the hub's own client, to a server on loopback that speaks its protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from moslim_core.errors import UserError
from moslim_core.export.card import Record
from moslim_core.export.hub import push, require_access, require_placeless, without_places
from moslim_core.export.merged import export_merged, publish
from tests.core.export.hub_server import READER, TOKEN, Hub, hub
from tests.core.export.policies import make_policy

RECORD = Record(
    {"headline": "It follows.", "findings": [{"preference": "warmth", "sentence": "Spearman 0.8."}], "remarks": []}, "# Data card\n"
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub() as running:
        for module in ("huggingface_hub.constants", "huggingface_hub.hf_api.constants"):
            monkeypatch.setattr(f"{module}.ENDPOINT", running.address)
            monkeypatch.setattr(f"{module}.HF_HUB_DISABLE_XET", True)
            monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


def test_a_policy_is_pushed_private_with_its_cards(server: Hub, tiny_chat: Path, tmp_path: Path) -> None:
    policy = make_policy("llama", tiny_chat, tmp_path)
    assert require_access("me/policy", public=False) == "me/policy"
    address = publish(
        policy, None, tmp_path, "float32", None, RECORD, lambda folder: push(folder, "me/policy", False, [tmp_path, Path.home()])
    )
    assert address == f"{server.address}/me/policy" and server.repos == {"me/policy": True}
    kept = export_merged(policy, tmp_path / "out", tmp_path, "float32", None, RECORD)
    assert server.files == {file.name: file.read_bytes() for file in kept.iterdir()}
    readme = server.files["README.md"].decode()
    assert "It follows." in readme and "Spearman 0.8." in readme and "[data_card.md](data_card.md)" in readme
    assert not [name for name, content in server.files.items() if str(tmp_path).encode() in content]
    # Once more: the repository is there, and private.
    push(kept, require_access("me/policy", public=False), False)


def test_who_may_not_is_told(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "README.md").write_text("text")
    server.repos["me/shown"] = False
    with pytest.raises(UserError, match="is there, and public"):
        require_access("me/shown", public=False)
    for name in ("policy", "me/po licy", "a/b/c", "/"):
        with pytest.raises(UserError, match="OWNER/NAME"):
            require_access(name, public=False)
    with pytest.raises(UserError, match="no repository is named"):
        require_access(None, public=False)
    monkeypatch.setenv("HF_TOKEN", READER)
    with pytest.raises(UserError, match=r"refuses this token \(40\d"):
        push(tmp_path / "new", "me/policy", False)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match=r"refuses this token \(401"):
        require_access("me/policy", public=False)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="no token"):
        require_access("me/policy", public=False)
    assert "me/policy" not in server.repos


def test_a_hub_that_is_away_is_told(server: Hub) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"nothing can be pushed to http://127.0.0.1:\d+ .*\nConnect, or"):
        require_access("me/policy", public=False)


def test_no_folder_of_this_machine_is_published(tmp_path: Path) -> None:
    (tmp_path / "data_card.md").write_text(f"Rows of {tmp_path}/secret/rows.jsonl")
    with pytest.raises(UserError, match=r"data_card.md names a folder of this machine"):
        require_placeless(tmp_path, [tmp_path])
    assert without_places(f"{tmp_path}/secret/rows.jsonl", [tmp_path, tmp_path / "secret"]) == "rows.jsonl"
