"""The machine around a run: proxies, folders with odd names, references that lead elsewhere, damaged state of servers."""

from __future__ import annotations

import functools
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from flows.service import keeper
from flows.service.server import wait_until_healthy
from flows.service.up import STATE, running
from tasks.ledger.ledger import Ledger, sqlite
from tasks.surroundings import environment, network, work_dirs
from tasks.surroundings.processes import own_name
from tests.odd.case import Case

DEAD_PROXY = "http://127.0.0.1:9"


@functools.cache
def ledger() -> Ledger:
    """One for all rows, in a folder of its own."""
    with patch.dict(os.environ):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        return Ledger(Path(tempfile.mkdtemp()))


def named(name: str) -> Callable[[Path], object]:
    return lambda folder: work_dirs.made(folder / "output" / name)


def a_file(folder: Path) -> object:
    (folder / "work").write_text("mine")
    return work_dirs.made(folder / "work")


def below_a_file(folder: Path) -> object:
    (folder / "work").write_text("mine")
    return work_dirs.made(folder / "work" / "below")


def kept_below(name: str) -> Callable[[Path], object]:
    """A database is made at the address of a folder with that name, and all of it lies there."""

    def act(folder: Path) -> None:
        from sqlalchemy import create_engine, text

        work = work_dirs.made(folder / name)
        with create_engine(sqlite(work / "ledger.db")).begin() as connection:
            connection.execute(text("create table runs (name text)"))
        assert [path.name for path in folder.rglob("*.db*")] == ["ledger.db"] and (work / "ledger.db").stat().st_size > 0

    return act


def with_variables(**given: str) -> Callable[[Path], object]:
    """What a command does first, where the environment says that."""

    def act(folder: Path) -> str:
        with patch.dict(os.environ):
            for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
                del os.environ[name]
            os.environ.update(given)
            network.reach_loopback()
            return os.environ["no_proxy"]

    return act


def keeps_exceptions(folder: Path) -> None:
    assert with_variables(NO_PROXY="corp, .lan", HTTP_PROXY=DEAD_PROXY)(folder) == "corp,.lan,localhost,127.0.0.1,::1"
    assert with_variables(NO_PROXY="*")(folder) == "*"
    assert with_variables(no_proxy="a", NO_PROXY="b")(folder) == "a,localhost,127.0.0.1,::1"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def answers_past_a_dead_proxy(folder: Path) -> None:
    import httpx
    import requests

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with patch.dict(os.environ, dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"), DEAD_PROXY)):
            for name in ("NO_PROXY", "no_proxy"):
                os.environ.pop(name, None)
            network.reach_loopback()
            for host in ("127.0.0.1", "localhost"):
                url = f"http://{host}:{server.server_port}/"
                with urllib.request.urlopen(url, timeout=5) as answer:
                    assert answer.status == 200
                assert httpx.get(url).status_code == requests.get(url, timeout=5).status_code == 200
    finally:
        server.shutdown()
        server.server_close()


def no_name_and_no_home(folder: Path) -> None:
    """The current user as one that the machine knows nothing of."""
    import getpass
    import pwd

    with patch.dict(os.environ), patch.object(pwd, "getpwuid", side_effect=KeyError("uid not found")):
        for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
            os.environ.pop(name, None)
        work = environment.prepare(folder / "work")
        assert Path.home().is_relative_to(work) and getpass.getuser() == f"user-{os.getuid()}"


def referring(reference: str) -> Callable[[Path], object]:
    return lambda folder: ledger().download(reference)


def odd_metric(folder: Path) -> None:
    run = ledger().open_stage("label", "0" * 64, None, {"labels.(none)": 1, "labels.very good!": 2})
    ledger().log_points(run, [(0, {"(none)": 1.0, "(none": 2.0, "very good!": 3.0, "../up": 4.0, "": 5.0})])
    assert sorted(ledger().client.get_run(run).data.metrics.values()) == [1, 2, 3, 4, 5]


def server_record(content: str) -> Callable[[Path], object]:
    def act(folder: Path) -> None:
        keeper.record(folder).write_text(content)
        assert keeper.known(folder) is None

    return act


def server_that_ends(folder: Path) -> None:
    log = folder / "server.log"
    code = "import sys; sys.exit('\\n'.join(['starting'] + ['sqlite3.OperationalError: database is locked'] + ['', 'bye', '']))"
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=file, stderr=file)
    wait_until_healthy("http://127.0.0.1:9/health", process, log, "the server")


def service_state(content: str) -> Callable[[Path], object]:
    def act(folder: Path) -> None:
        (folder / STATE).write_text(content)
        assert running(folder) is None

    return act


def user_of_another_kind(folder: Path) -> None:
    (folder / "users").mkdir()
    (folder / "users" / "123").write_bytes(b"\xff\x00 1764300000.5")
    assert not keeper.in_use(folder)
    with keeper.using(folder):
        assert keeper.in_use(folder)
    assert not keeper.in_use(folder)


HERE = own_name().rsplit(":", 2)[0]
CASES = [
    Case("a work directory that is a file", a_file, "it is a file"),
    Case("a work directory below a file", below_a_file, "can't be written"),
    Case("a work directory with a question mark", named("runs?"), "'?' can't stand"),
    Case("a work directory with a line's end", named("runs\nof mine"), "'\\n' can't stand"),
    Case("a work directory that is not UTF-8", named(os.fsdecode(b"caf\xe9")), "not UTF-8"),
    Case("a work directory with too long a path", named("/".join(["deep" * 10] * 12)), "460 at most"),
    Case("a work directory with too long a name", named("a" * 300), "255 at most"),
    Case("a work directory where none can be made", lambda folder: work_dirs.made(Path("/proc/moslim/work")), "can't be written"),
    Case("a work directory in the home of nobody", lambda folder: work_dirs.made(Path("~nobody-of-that-name/work")), "whole path"),
    Case("a work directory with a hash, a percent sign and spaces", kept_below("a #1 50%41 %2e b")),
    Case("a work directory in Russian, Japanese and Arabic", kept_below("работа 日本\u3000語 عمل")),
    Case("a work directory with quotes and semicolons", kept_below("a'b\"c;d&e=f:g@h")),
    Case("cleaning what is no work directory", environment.existing, "no work directory"),
    Case("a dead proxy and servers on loopback", answers_past_a_dead_proxy),
    Case("exceptions from a proxy that the user made", keeps_exceptions),
    Case("a proxy without a scheme", with_variables(HTTP_PROXY="proxy:3128")),
    Case("a SOCKS proxy without its package", with_variables(ALL_PROXY="socks5://u:secret@h:1080"), "ALL_PROXY"),
    Case("a proxy of another protocol", with_variables(HTTPS_PROXY="ftp://u:secret@h"), "HTTPS_PROXY"),
    Case("a proxy whose port is no number", with_variables(http_proxy="http://u:secret@h:port"), "http_proxy"),
    Case("certificates that are not there", with_variables(SSL_CERT_FILE="/nowhere/ca.pem"), "SSL_CERT_FILE"),
    Case("a user without a name and a home", no_name_and_no_home),
    Case("a reference out of its run", referring(f"runs:/{'0' * 32}/../../secret"), "below it"),
    Case("a reference out of its run, encoded", referring(f"runs:/{'0' * 32}/%2e%2e/%2e%2e/secret"), "below it"),
    Case("a reference out of its run, encoded twice", referring(f"runs:/{'0' * 32}/%252e%252e%252fsecret"), "below it"),
    Case("a reference to a whole path", referring(f"runs:/{'0' * 32}//etc/passwd"), "below it"),
    Case("a reference with a line's end", referring(f"runs:/{'0' * 32}/output%0a"), "below it"),
    Case("a reference of another kind", referring("file:///etc"), "no reference"),
    Case("metrics with names that MLflow refuses", odd_metric),
    Case("a server's record that is cut", server_record('{"address": "http://127')),
    Case("a server's record that is a list", server_record("[1, 2]")),
    Case("a server's record of an earlier version", server_record('{"address": "http://127.0.0.1:1/api", "pid": 1}')),
    Case("a server's record whose process is gone", server_record(json.dumps({"address": "http://h", "process": f"{HERE}:4194305:1"}))),
    Case("a server that does not start", server_that_ends, "did not start: sqlite3.OperationalError: database is locked"),
    Case("a service's state that is cut", service_state('{"owner": ')),
    Case("a service's state without an owner", service_state("{}")),
    Case("a service's state of an earlier version", service_state(json.dumps({"owner": f"{HERE.split(':')[0]}:1:1764300000"}))),
    Case("a server's user of an earlier version", user_of_another_kind),
]
