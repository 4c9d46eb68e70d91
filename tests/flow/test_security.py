"""Only this machine is served, keys stay in the environment, and names lead nowhere but below their folders."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.databases import DRIVERS, check_databases
from flows.server import mlflow_server, prefect_server
from moslim_core.errors import UserError
from tests.core.chat_server import Request, says, serving
from tests.flow.conftest import Moslim

PASSWORD = "planted-password-5a1e"
KEY = "sk-planted-key-77c3"


@pytest.mark.integration
def test_servers_listen_on_loopback_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", *DRIVERS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    with mlflow_server(tmp_path), prefect_server(tmp_path):
        listening = {
            (connection.laddr.ip, connection.laddr.port)
            for process in psutil.Process().children(recursive=True)
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert len(listening) >= 2 and {ip for ip, _ in listening} == {"127.0.0.1"}
        others = {a.address for of in psutil.net_if_addrs().values() for a in of if a.family == socket.AF_INET} - {"127.0.0.1"}
        for address in others:
            for _, port in listening:
                with pytest.raises(OSError), socket.create_connection((address, port), timeout=2):
                    pass


def verdict(request: Request) -> Any:
    """The lowest level of whatever is asked about."""
    schema = request.body["response_format"]["json_schema"]["schema"]
    return says(dict.fromkeys(schema["properties"], 1))


@pytest.mark.integration
def test_a_planted_key_is_in_no_file_of_a_run(profile: Path, moslim: Moslim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge is asked with the key; then every byte below the work directory is looked through, and what was printed."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(verdict) as server:
        result = moslim(
            "label", "--profile", str(profile), "--set", f"work_dir={tmp_path}", "--set", "annotation.fill=judge",
            "--set", "annotation.judge.model=m", "--set", f"annotation.judge.base_url={server.url}",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        assert server.requests and all(KEY in request.headers["authorization"] for request in server.requests)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"mlflow.db", "prefect.db"} <= {file.name for file in files}
    assert [str(file) for file in files if KEY.encode() in file.read_bytes()] == []
    assert KEY not in result.stdout + result.stderr
    # What Prefect kept of it is JSON, if anything.
    stored = [file for file in (tmp_path / "prefect" / "storage").rglob("*") if file.is_file()]
    assert all(json.loads(file.read_text())["metadata"]["serializer"]["type"] == "json" for file in stored)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        (f"postgresql://u:{PASSWORD}@127.0.0.1:1/p", "is no address of PostgreSQL"),
        (f"u:{PASSWORD}", "is no address of PostgreSQL"),
        (f"{{driver}}://u:{PASSWORD}@127.0.0.1:1/p", "127.0.0.1"),
    ],
)
@pytest.mark.parametrize("name", DRIVERS)
def test_a_database_that_cannot_be_used_is_named_without_its_password(
    name: str, address: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg2", reason="needs moslim[postgres]")
    for other in DRIVERS:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, address.format(driver=DRIVERS[name]))
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        check_databases()
    assert name in str(caught.value) and PASSWORD not in str(caught.value) and len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("key", ["data.columns.labels.a/../../../b.column", "../../seed", "mapping.weights./tmp/x"])
def test_a_compared_setting_names_no_folder_elsewhere(key: str) -> None:
    from flows.compare import folder_name

    assert Path(folder_name(key, "f" * 64)).name == folder_name(key, "f" * 64)
