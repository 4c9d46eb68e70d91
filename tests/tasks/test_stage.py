"""A stage that is reused looks at nothing; one that has to work is checked first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moslim_core.errors import UserError
from moslim_core.settings import Settings
from tasks.execution.stage import fingerprint, run_stage
from tasks.ledger.of_work_dir import ledger_of
from tasks.ledger.references import STAGE_FILE, write_manifest
from tasks.stages.label import STAGE
from tests.odd.tiny_models import PREFERENCES


def test_what_a_run_lacks_is_said_before_a_stage_works_and_not_where_it_is_reused(
    tiny_chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    model = {"base": str(tiny_chat), "device": "cpu", "dtype": "float32"}
    settings = Settings.model_validate({"work_dir": tmp_path / "work", "preferences": PREFERENCES, "model": model})
    ledger = ledger_of(settings.work_dir)

    def check() -> None:
        raise UserError("it lacks a layer")

    with pytest.raises(UserError, match="lacks a layer"):
        run_stage(STAGE, settings, {}, None, check)
    assert not ledger.client.search_runs([ledger.experiment_id]) and not (settings.work_dir / "stages").exists()
    (made := tmp_path / "made").mkdir()
    (made / STAGE_FILE).write_text(json.dumps({"seconds": 1.0, "peak_memory_gb": 1.0, "metrics": {}}))
    run = ledger.open_stage(STAGE.name, fingerprint(STAGE, settings, {}), None, {})
    ref = ledger.finish(run, STAGE.kind, made, write_manifest(made))
    outcome = run_stage(STAGE, settings, {}, None, check)
    assert outcome.cached and outcome.ref == ref
