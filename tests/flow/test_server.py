"""One Prefect server for all commands of a work directory: it ends with the last of them, however these end."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.service.keeper import in_use
from flows.service.server import keep_ports, kept_port
from moslim_core.errors import UserError
from tasks.surroundings.network import free_port
from tests.flow.conftest import environment

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

USER = "import sys; from pathlib import Path; from flows.service.server import prefect_server\n"
USER += "with prefect_server(Path(sys.argv[1])) as address: print(address, flush=True); sys.stdin.read()"


class User:
    """A process that uses the server until it is told to end."""

    def __init__(self, work_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(work_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(work_dir),
            text=True,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=10):
            return True
    except OSError:
        return False


@pytest.fixture
def users(tmp_path: Path, prepared: Callable[[Path], Path]) -> Iterator[tuple[User, User]]:
    prepared(tmp_path)
    both = User(tmp_path), User(tmp_path)
    yield both
    for user in both:
        user.process.kill()
        user.process.communicate()


def test_it_outlives_who_started_it_and_ends_with_the_last(users: tuple[User, User], tmp_path: Path) -> None:
    first, second = users
    assert first.address == second.address and answers(first.address)
    first.end()
    assert answers(second.address) and in_use(tmp_path / "prefect")
    second.end()
    assert not answers(second.address) and not in_use(tmp_path / "prefect")
    assert not (tmp_path / "prefect" / "server.json").exists()


def test_it_listens_at_the_port_that_was_asked_for_and_moves_for_nobody(users: tuple[User, User], tmp_path: Path) -> None:
    own, other = int(users[0].address.split(":")[2].removesuffix("/api")), free_port()
    keep_ports(tmp_path, None, own)
    with pytest.raises(UserError, match=f"--prefect-port {other}: other commands use the server at {users[0].address}"):
        keep_ports(tmp_path, None, other)
    for user in users:
        user.end()
    keep_ports(tmp_path, None, other)
    again = User(tmp_path)
    assert again.address == f"http://127.0.0.1:{other}/api" and answers(again.address)
    again.end()


def test_a_port_that_is_taken_is_refused_before_anything_is_kept(tmp_path: Path) -> None:
    first, free = free_port(), free_port()
    keep_ports(tmp_path, first, None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(UserError, match=rf"--prefect-port {taken}: nothing can listen there \(Address already in use\)"):
            keep_ports(tmp_path, free, taken)
    for ports in ((free, free), (None, first)):
        with pytest.raises(UserError, match="can't both listen at port"):
            keep_ports(tmp_path, *ports)
    assert kept_port(tmp_path / "mlflow") == first


def test_it_ends_when_all_who_used_it_were_killed(users: tuple[User, User], tmp_path: Path) -> None:
    for user in users:
        user.process.kill()
        user.process.wait()
    deadline = time.monotonic() + 60
    while answers(users[0].address) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not answers(users[0].address)
    again = User(tmp_path)
    assert answers(again.address) and again.address == users[0].address, "it keeps its port"
    again.end()
