"""A run amid what machines have: a dead proxy, an odd folder with files that are called as modules are, a user without name and home, a
terminal without UTF-8, and a key."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.core.chat_server import Request, says, serving
from tests.flow.conftest import BEHIND_A_PROXY, LIMIT, ODD_NAME, command

KEY = "sk-planted-key-77c3"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
# Files of the user's own, with names that libraries import.
NAMESAKES = ("click.py", "moslim_core.py", "numpy.py", "prefect.py", "queue.py", "random.py", "torch.py")
# Someone whom the machine does not know, but who may read what this user may.
AS_NOBODY = ["unshare", "--user", "--map-user=54321"]
SPEAKS = "import sys; from tasks.surroundings.terminal import speak_utf8; speak_utf8(); print(open(sys.argv[1]).read()); print(sys.argv[2])"


@pytest.mark.parametrize(
    ("encoding", "printed"), [("latin-1", b"caf\xe9 \\u65e5\nna\xefve\n"), ("ascii", b"caf\\xe9 \\u65e5\nna\\xefve\n")]
)
def test_a_terminal_gets_what_it_can_show(encoding: str, printed: bytes, tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("café 日", encoding="utf-8")
    environment = {**os.environ, **ASCII, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", SPEAKS, str(file), "naïve"], env=environment, capture_output=True, check=False)
    assert done.stdout == printed, done.stderr.decode()


def verdict(request: Request) -> Any:
    """The lowest level of whatever is asked about."""
    schema = request.body["response_format"]["json_schema"]["schema"]
    return says(dict.fromkeys(schema["properties"], 1))


@pytest.mark.integration
@pytest.mark.timeout(LIMIT)
def test_a_run_amid_all_of_it(profile: Path, prepared: Callable[[Path], Path], tmp_path: Path) -> None:
    """The judge is asked with the key; then every byte below the work directory is looked through, and what was printed."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    for name in NAMESAKES:
        (cwd / name).write_text("raise ImportError('a file of the user, and no module')")
    work = prepared(tmp_path / ODD_NAME)
    # No HOME; only what finds the programs is kept.
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS") if name in os.environ} | ASCII
    unknown = AS_NOBODY if shutil.which("unshare") and not subprocess.run([*AS_NOBODY, "true"], check=False).returncode else []
    with serving(verdict) as server:
        judged = {"fill": "judge", "judge.model": "m", "judge.base_url": server.url}
        options = [part for key, value in judged.items() for part in ("--set", f"annotation.{key}={value}")]
        done = subprocess.run(
            # As the installed command, which has no current directory among its modules.
            [*unknown, sys.executable, "-P", *command("label", "--profile", str(profile), "--set", f"work_dir={work}", *options)[1:]],
            env={**environment, **BEHIND_A_PROXY, "PYTHONPATH": str(Path(__file__).parents[2]), "OPENAI_API_KEY": KEY},
            cwd=cwd, capture_output=True, check=False,
        )  # fmt: skip
        told = done.stderr.decode(errors="replace")
        assert done.returncode == 0 and "Traceback" not in told, told
        assert server.requests and all(KEY in request.headers["authorization"] for request in server.requests)
    assert "label: done" in told
    assert (work / "latest" / "data_card.html").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", ODD_NAME], "nothing went elsewhere"
    assert sorted(path.name for path in cwd.iterdir()) == list(NAMESAKES)
    files = [file for file in work.rglob("*") if file.is_file()]
    assert {"mlflow.db", "prefect.db"} <= {file.name for file in files}
    assert [str(file) for file in files if KEY.encode() in file.read_bytes()] == [] and KEY not in told + done.stdout.decode()
    # What Prefect kept of it is JSON, if anything.
    stored = [file for file in (work / "prefect" / "storage").rglob("*") if file.is_file()]
    assert all(json.loads(file.read_text())["metadata"]["serializer"]["type"] == "json" for file in stored)
