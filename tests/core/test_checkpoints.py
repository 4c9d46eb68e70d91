"""A checkpoint counts only with its marker."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from moslim_core.checkpoints import MARKER, MarkComplete, last_complete


def saved(folder: Path, step: int, state: dict[str, int]) -> Path:
    (checkpoint := folder / f"checkpoint-{step}").mkdir()
    MarkComplete(lambda: state).on_save(
        SimpleNamespace(output_dir=str(folder)), SimpleNamespace(global_step=step, is_world_process_zero=True), None
    )
    return checkpoint


def test_newest_complete_checkpoint_counts_and_incomplete_ones_go(tmp_path: Path) -> None:
    assert last_complete(tmp_path / "nowhere") is None
    assert last_complete(tmp_path) is None
    saved(tmp_path, 9, {"rows": 9})
    tenth = saved(tmp_path, 10, {"rows": 10})  # newer by number, though not by name
    half = tmp_path / "checkpoint-11"
    half.mkdir()
    (half / f"{MARKER}.partial").write_text("{")
    assert last_complete(tmp_path) == (tenth, {"rows": 10})
    assert not half.exists()
    assert list(tenth.iterdir()) == [tenth / MARKER]
