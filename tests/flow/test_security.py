"""Passwords are not told, and names lead nowhere but below their folders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flows.service.databases import DRIVERS, check_databases
from moslim_core.errors import UserError

PASSWORD = "planted-password-5a1e"


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
