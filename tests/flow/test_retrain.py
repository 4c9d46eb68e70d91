"""Retraining on tiny models: the first policy is promoted, a worse one refused, a better one promoted and rolled back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from flows import profile as profiles
from moslim_core.evaluation.promotion_gate import Measured
from moslim_core.settings import Settings
from moslim_core.statistics.bootstrap import Interval
from tasks.ledger.registry import CHALLENGER, CHAMPION, Registry
from tests.flow.conftest import inside, served
from tests.flow.test_up import ask

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def settings(profile: Path, prepared: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Two steps are enough, and a Prefect server of this work directory that the flow reports to."""
    work_dir = prepared(tmp_path_factory.mktemp("retrain"))
    overrides = ["policy.steps=2", "reward.epochs=1", "evaluation.operating_points=0", f"work_dir={work_dir}"]
    with served(work_dir):
        yield profiles.load(str(profile), overrides)


def shifted(measured: Measured, by: float) -> Measured:
    """The same with other control, and with intervals, which four prompts don't give."""
    assert measured.control is not None
    for control in measured.control.preferences.values():
        control.spearman = Interval(value=by, low=by - 0.1, high=by + 0.1)
    return measured


@pytest.mark.timeout(900)
def test_a_worse_challenger_is_refused_and_a_better_one_promoted_and_rolled_back(
    settings: Settings, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import retrain as flow

    registry = Registry(settings.work_dir, "policy")
    first = flow.retrain(settings)
    assert first.promoted and first.version == "1" and first.drift == "not compared"

    rows = [json.loads(line) for line in (profile.parent / "rows.jsonl").read_text().splitlines()]
    # New data in which nearly every answer is long.
    kept = [row for index, row in enumerate(rows) if row["length"] == 3 or index % 4 == 0]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    new = profiles.override(settings, [f"data.path={tmp_path / 'new.jsonl'}"])
    real, order = flow.measured, [0.6, 0.2]  # the champion's figures are read first

    def measured(evaluation: object, work_dir: Path) -> Measured:
        return shifted(real(evaluation, work_dir), order.pop(0))  # type: ignore[arg-type]

    monkeypatch.setattr(flow, "measured", measured)
    worse = flow.retrain(new)
    assert not worse.promoted and "length/spearman" in worse.why and worse.version == "2" and "labels of length" in worse.drift
    assert registry.version_at(CHAMPION) == "1" and registry.version_at(CHALLENGER) == "2"

    order[:] = [0.2, 0.6]
    better = flow.retrain(new)
    assert better.promoted and better.version == "2"
    assert registry.version_at(CHAMPION) == "2" and registry.version_at(CHALLENGER) is None
    client = MlflowClient(f"sqlite:///{settings.work_dir}/mlflow/mlflow.db")
    assert client.get_model_version("policy", "2").tags["moslim.gate"] == better.why
    assert client.get_run(better.run_id).data.tags["moslim.promoted"] == "True"

    shown = {of["key"]: of["data"] for of in ask(os.environ["PREFECT_API_URL"], "/artifacts/latest/filter", {})}
    assert "length/spearman" in shown["retrain-gate"] and shown["retrain-control"].startswith("data:image/png;base64,")
    assert better.run_id in shown["retrain-runs"] and better.why in shown["retrain-runs"]

    monkeypatch.setattr(flow, "measured", real)
    assert flow.retrain(new).why == flow.SAME

    result = inside("rollback", "--why", "complaints", "--work-dir", str(settings.work_dir))
    assert result.exit_code == 0 and "version 1 (it was version 2)" in result.stdout, result.stderr
    again = inside("promote", "--policy", "models:/policy/2", "--work-dir", str(settings.work_dir))
    assert again.exit_code == 0 and "version 2 (it was version 1)" in again.stdout, again.stderr
    assert [m.kind for m in registry.moves()] == ["challenge", "promote", "challenge", "promote", "rollback", "promote"]
    nothing = inside("promote", "--policy", str(tmp_path), "--work-dir", str(settings.work_dir))
    assert nothing.exit_code == 2 and "is no policy" in nothing.stderr and "Traceback" not in nothing.stderr
