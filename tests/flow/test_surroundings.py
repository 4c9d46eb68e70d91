"""A run amid what machines have: a dead proxy, a folder with an odd name, a user without name and home, a terminal without UTF-8."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flow.conftest import BEHIND_A_PROXY, LIMIT, ODD_NAME, command

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
# Someone whom the machine does not know, but who may read what this user may.
AS_NOBODY = ["unshare", "--user", "--map-user=54321"]
SPEAKS = "import sys; from tasks.terminal import speak_utf8; speak_utf8(); print(open(sys.argv[1]).read()); print(sys.argv[2])"


@pytest.mark.parametrize(
    ("encoding", "printed"), [("latin-1", b"caf\xe9 \\u65e5\nna\xefve\n"), ("ascii", b"caf\\xe9 \\u65e5\nna\\xefve\n")]
)
def test_a_terminal_gets_what_it_can_show(encoding: str, printed: bytes, tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("café 日", encoding="utf-8")
    environment = {**os.environ, **ASCII, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", SPEAKS, str(file), "naïve"], env=environment, capture_output=True, check=False)
    assert done.stdout == printed, done.stderr.decode()


@pytest.mark.integration
@pytest.mark.timeout(LIMIT)
def test_a_run_amid_all_of_it(profile: Path, tmp_path: Path) -> None:
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    work = tmp_path / ODD_NAME
    # No HOME; only what finds the programs is kept.
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS") if name in os.environ} | ASCII
    unknown = AS_NOBODY if shutil.which("unshare") and not subprocess.run([*AS_NOBODY, "true"], check=False).returncode else []
    done = subprocess.run(
        [*unknown, *command("label", "--profile", str(profile), "--set", f"work_dir={work}")],
        env={**environment, **BEHIND_A_PROXY, "PYTHONPATH": str(Path(__file__).parents[2])}, cwd=cwd, capture_output=True, check=False,
    )  # fmt: skip
    told = done.stderr.decode(errors="replace")
    assert done.returncode == 0 and "Traceback" not in told, told
    assert "label: done" in told
    assert (work / "latest" / "data_card.html").is_file() and (work / "prefect" / "prefect.db").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", ODD_NAME] and not list(cwd.iterdir()), "nothing went elsewhere"
