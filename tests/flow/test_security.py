"""Only this machine is served, passwords are not told, and names lead nowhere but below their folders."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from flows.databases import DRIVERS, check_databases
from flows.server import mlflow_server, prefect_server
from moslim_core.errors import UserError

PASSWORD = "planted-password-5a1e"


@pytest.mark.integration
def test_servers_listen_on_loopback_alone(tmp_path: Path, prepared: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(tmp_path)
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
