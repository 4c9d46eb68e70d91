"""`moslim up` on PostgreSQL: a cluster of the test's own, a flow on it, the password nowhere but in the environment; and `down`."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from flows.service.databases import DRIVERS
from flows.service.server import free_port
from flows.service.up import STATE
from tests.flow.conftest import Moslim, environment
from tests.flow.test_up import ask, completed, family

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

PASSWORD = "planted-password-5a1e"
# Debian keeps them apart by version.
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
POSTGRES = BINARIES[-1].parent if BINARIES else Path(shutil.which("initdb") or "").parent


def unprivileged() -> dict[str, str]:
    """PostgreSQL does not run as root: where the tests do, the package's own user runs it."""
    try:
        return {"user": pwd.getpwnam("postgres").pw_name} if os.getuid() == 0 else {}
    except KeyError:
        pytest.skip("the tests run as root, and there is no user postgres")


@pytest.fixture(scope="module")
def addresses() -> Iterator[dict[str, str]]:
    """The addresses of two empty databases, by the variables that name them."""
    pytest.importorskip("psycopg2", reason="needs moslim[postgres]")
    if not (POSTGRES / "initdb").is_file():
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    who, port = unprivileged(), free_port()
    # Outside pytest's folders, which only their owner can enter.
    home = Path(subprocess.run(["mktemp", "-d"], cwd="/", check=True, capture_output=True, text=True, **who).stdout.strip())  # type: ignore[call-overload]

    def run(name: str, *arguments: str) -> None:
        command = [str(POSTGRES / name), *arguments]
        subprocess.run(command, cwd=home, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PGPASSWORD": PASSWORD}, **who)  # type: ignore[call-overload]

    (home / "password").write_text(PASSWORD)
    try:
        run("initdb", "-D", "data", "-U", "moslim", "-A", "scram-sha-256", "--pwfile=password")
        options = f"-c listen_addresses=127.0.0.1 -c unix_socket_directories={home} -p {port}"
        run("pg_ctl", "-D", "data", "-o", options, "-l", "log", "-w", "start")
        found = {}
        for number, (variable, driver) in enumerate(DRIVERS.items()):
            run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "moslim", f"server{number}")
            found[variable] = f"{driver}://moslim:{PASSWORD}@127.0.0.1:{port}/server{number}"
        yield found
        run("pg_ctl", "-D", "data", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def dumped(addresses: dict[str, str]) -> str:
    """All rows of both databases."""
    import psycopg2

    text = []
    for variable, address in addresses.items():
        with psycopg2.connect(address.replace(DRIVERS[variable], "postgresql")) as connection, connection.cursor() as cursor:
            cursor.execute("select table_name from information_schema.tables where table_schema = 'public'")
            for (table,) in cursor.fetchall():
                cursor.execute(f'select found::text from "{table}" found')
                text += [row for (row,) in cursor.fetchall()]
    return "\n".join(text)


def test_up_on_postgresql_runs_a_flow_and_keeps_the_password_to_itself(
    addresses: dict[str, str], profile: Path, moslim: Moslim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both start with what the test's environment leaves out.
    monkeypatch.setattr("tests.flow.conftest.environment", with_addresses(addresses))
    try:
        result = moslim("up", "--profile", str(profile), "--set", f"work_dir={tmp_path}")
        assert result.returncode == 0, result.stdout + result.stderr
        api = json.loads((tmp_path / STATE).read_text())["prefect"]
        (label,) = [of for of in ask(api, "/deployments/filter", {}) if of["name"] == "label"]
        run = completed(api, label["id"], 300)
        kept = dumped(addresses)
        assert run["name"] in kept and "moslim.fingerprint" in kept, "both servers' records are in PostgreSQL"
        assert not list(tmp_path.rglob("*.db"))
        assert PASSWORD not in kept + result.stdout + result.stderr
        assert [str(f) for f in tmp_path.rglob("*") if f.is_file() and PASSWORD.encode() in f.read_bytes()] == []
        assert (tmp_path / "latest" / "data_card.html").is_file()
        lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
        assert [line for line in lines if PASSWORD in line] == []
    finally:
        stopped = moslim("down", "--work-dir", str(tmp_path))
    assert stopped.returncode == 0 and "stopped" in stopped.stdout, stopped.stderr
    assert family(tmp_path) == [] and not (tmp_path / STATE).exists()


def with_addresses(addresses: dict[str, str]) -> Callable[[Path], dict[str, str]]:
    return lambda home: {**environment(home), **addresses}
