"""The notebooks of the documents, cell by cell, on tiny models. Not by default: `make notebooks`."""

from __future__ import annotations

import os
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"

pytestmark = [pytest.mark.notebooks, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def work_dir(prepared: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: what the quick start has made, the comparison uses."""
    return prepared(tmp_path_factory.mktemp("notebooks") / "work")


def outputs(notebook: dict[str, Any]) -> list[Any]:
    return [output for cell in notebook["cells"] for output in cell.get("outputs", ())]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("quick_start", "length 1/3"), ("compare", "reward.head"), ("own_data", "joy"), ("own_measure", "many that begin alike")],
)
def test_every_cell_runs_and_shows_something(name: str, shown: str, work_dir: Path, profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOSLIM_NOTEBOOK_PROFILE", str(profile))
    monkeypatch.setenv("MOSLIM_NOTEBOOK_WORK", str(work_dir))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    # A package of one notebook is none of the next.
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    found = outputs(runpy.run_path(str(DOCS / "make_notebooks.py"))["run"](name))
    assert len(found) > 1 and shown in str(found)


def test_every_notebook_is_run_here() -> None:
    assert {file.stem for file in (DOCS / "notebooks").glob("*.ipynb")} == {"quick_start", "compare", "own_data", "own_measure"}
