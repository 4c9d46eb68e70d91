"""Progress in Prefect: of a stage's second run in a process it is not shown in the place of the first one's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import prefect.artifacts
import pytest
from prefect.context import TaskRunContext

from tasks.surroundings import progress


def test_every_task_run_has_a_progress_artifact_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[UUID, list[float]] = {}

    def create(progress: float, **_: Any) -> UUID:
        made = uuid4()
        shown[made] = [progress]
        return made

    monkeypatch.setattr(progress, "ARTIFACT_SECONDS", 0.0)
    monkeypatch.setattr(prefect.artifacts, "create_progress_artifact", create)
    monkeypatch.setattr(prefect.artifacts, "update_progress_artifact", lambda of, progress, **_: shown[of].append(progress))
    runs = [SimpleNamespace(task_run=SimpleNamespace(id=uuid4())) for _ in range(2)]
    for run, done in ((runs[0], 1), (runs[0], 2), (runs[1], 1), (runs[0], 3), (runs[1], 4)):
        monkeypatch.setattr(TaskRunContext, "get", lambda run=run: run)
        progress.progress("label", "rows", done, 4)
    monkeypatch.setattr(TaskRunContext, "get", lambda: None)
    progress.progress("label", "rows", 4, 4)
    assert list(shown.values()) == [[25.0, 50.0, 75.0], [25.0, 100.0]]
