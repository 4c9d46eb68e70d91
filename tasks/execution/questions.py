"""What takes the models' libraries to find out, asked of a process that has them: loading them in the flow's own takes seconds. (ours)"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from moslim_core.settings import Settings
from tasks.execution.launcher import Launch, run_worker
from tasks.execution.stage import Job
from tasks.stage_list import QUESTIONS
from tasks.surroundings import environment


def ask(
    question: str,
    settings: Settings,
    stages: Collection[str] = (),
    policy: Path | None = None,
    seeds: Sequence[int] = (),
    search: Sequence[float] = (),
) -> dict[str, Any]:
    """What the work of a question says, JSON data. Raises UserError where it does, RuntimeError where its process died.

    `stages`: those of the run that it is about, or systems of a comparison, with its `seeds` and the factors of its `search`; `policy`: the
    folder of one that is given.
    """
    assert question in QUESTIONS
    with tempfile.TemporaryDirectory(prefix=f"moslim-{question}-") as folder:
        home = Path(folder)
        job = Job(
            stage=question,
            settings=settings,
            inputs={"policy": policy} if policy else {},
            output=home / "output",
            checkpoints=home / "checkpoints",
            events=home / "events.jsonl",
            cache=environment.model_cache(settings.work_dir),
            stages=tuple(stages),
            seeds=tuple(seeds),
            search=tuple(search),
        )
        file = home / "job.json"
        file.write_text(job.model_dump_json(), encoding="utf-8")
        run_worker(file, job.events, home / "worker.log", lambda event: None, Launch())
        return json.loads((home / "metrics.json").read_text(encoding="utf-8"))
