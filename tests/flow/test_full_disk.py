"""A disk that is full while the policy trains: the command fails and says why, and goes on once there is room."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.flow.conftest import LIMIT, Finished, command, environment
from tests.flow.test_run import STAGES, stage_runs

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(2 * LIMIT)]

# A disk of its own, for this process alone and what it starts.
ON_A_DISK = ["unshare", "--map-root-user", "--mount"]
SCRIPT = """
work=$1; kept=$2; shift 2
mount -t tmpfs -o size=256m none "$work" || exit 77
(
    until ls "$work"/stages/*/checkpoints/checkpoint-4/complete.json >/dev/null 2>&1; do sleep 0.02; done
    cat /dev/zero > "$work/ballast" 2>/dev/null
) &
"$@" && exit 1
rm "$work/ballast"
echo "---" >&2
"$@" || exit 2
cp -rL "$work/mlflow" "$work/latest" "$kept"
"""


def test_a_full_disk(finished: Finished, profile: Path, tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run([*ON_A_DISK, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a disk of its own takes user namespaces, which are off here")
    work, kept, home = (tmp_path / name for name in ("work", "kept", "home"))
    for folder in (work, kept, home):
        folder.mkdir()
    run = command("run", "--profile", str(profile), "--set", f"work_dir={work}")
    ended = subprocess.run(
        [*ON_A_DISK, "sh", "-c", SCRIPT, "sh", str(work), str(kept), *run],
        env=environment(home), cwd=tmp_path, capture_output=True, text=True, timeout=2 * LIMIT, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    full, again = ended.stderr.split("---\n")
    assert "No space left on device" in full, full
    assert "train_policy: resuming" in again
    found = stage_runs(kept)
    assert {name: len(of) for name, of in found.items()} == {**dict.fromkeys(STAGES, 1), "pipeline": 1}
    assert all(run.info.status == "FINISHED" for of in found.values() for run in of)
    one, other = (load_file(d / "latest" / "policy" / "adapter_model.safetensors") for d in (kept, finished.work_dir))
    assert all((one[key] == other[key]).all() for key in one)
