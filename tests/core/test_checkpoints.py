"""A checkpoint counts only with its marker, and as the marker says that it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from moslim_core.training.checkpoints import MARKER, last_complete, mark


def saved(folder: Path, step: int, state: dict[str, int]) -> Path:
    (checkpoint := folder / f"checkpoint-{step}").mkdir(parents=True)
    (checkpoint / "weights").write_bytes(bytes([step]) * 100)
    mark(checkpoint, state)
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
    assert set(tenth.iterdir()) == {tenth / MARKER, tenth / "weights"}


@pytest.mark.parametrize("spoil", [lambda f: f.write_bytes(b""), lambda f: f.write_bytes(b"x" * 100), lambda f: f.unlink()])
def test_a_spoiled_checkpoint_gives_way_to_the_one_before(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    first, second = saved(tmp_path, 1, {"rows": 1}), saved(tmp_path, 2, {"rows": 2})
    assert last_complete(tmp_path) == (second, {"rows": 2})
    spoil(second / "weights")
    assert last_complete(tmp_path) == (first, {"rows": 1})
    assert not second.exists()
