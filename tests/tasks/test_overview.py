"""What a run says at first sight: its name, the figures of every run, links that lead to its page."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from flows import profile as profiles
from flows.form import FromProfile, name_of
from tasks.ledger.ledger import Ledger
from tasks.ledger.mlflow_pages import FIGURES, kept_port, link, link_within, note_port
from tasks.ledger.overview import LONGEST_NAME, headline_figures, run_name, stages_table
from tasks.ledger.references import ArtifactRef, Outcome
from tasks.surroundings.network import free_port

METRICS = {
    "train_reward": {"head/verbosity/accuracy": 0.8, "head/warmth/accuracy": 0.6, "head/warmth/kappa": 0.1},
    "evaluate": {
        "before/verbosity/spearman": 0.0, "before/warmth/spearman": 0.2, "after/verbosity/spearman": 0.5, "after/warmth/spearman": 0.7,
        "after/verbosity/mae": 1.0, "after/warmth/mae": 0.5, "after/truncated": 0.25, "after/front/hypervolume": 0.12345,
    },
}  # fmt: skip


def outcomes(metrics: dict[str, dict[str, float]]) -> dict[str, Outcome]:
    return {
        name: Outcome(
            ref=ArtifactRef(kind=name, uri=f"runs:/{name}/output", digest="d", run_id=name),
            stage=name, cached=name == "evaluate", seconds=90.0, peak_memory_gb=1.5, metrics=of,
        )
        for name, of in metrics.items()
    }  # fmt: skip


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return Ledger(tmp_path_factory.mktemp("work"))


def test_runs_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    settings = profiles.load("demo", [f"work_dir={tmp_path}", "seed=3", "policy.steps=40"])
    changes = (f"work_dir={tmp_path}", "seed=3", "policy.steps=40")
    assert run_name(settings, "demo", changes) == "demo, online DPO, seed 3, policy.steps=40"
    assert run_name(settings, "/profiles/mine.yaml", (), "label") == "mine, online DPO, seed 3, up to label"
    assert name_of(FromProfile(work_dir=tmp_path, set=("policy.optimiser=ppo",)), settings, "report") == "demo, online DPO, seed 3"
    assert name_of(settings, settings, "report") == "smollm2-135m, online DPO, seed 3"
    assert len(run_name(settings, "demo", ["data.path=" + "x" * 300])) == LONGEST_NAME


def test_every_run_has_figures_of_the_same_names(tmp_path: Path) -> None:
    settings = profiles.load("demo", [f"work_dir={tmp_path}"])
    figures = headline_figures(settings, outcomes(METRICS))
    assert figures["control"] == 0.6 and figures["control_start"] == 0.1 and figures["error"] == 0.75
    assert figures["reward_accuracy"] == 0.7 and figures["front"] == 0.123 and figures["minutes"] == 3.0
    assert figures["control/warmth"] == 0.7 and "control/simplicity" not in figures and "front_start" not in figures
    assert {name for name in figures if "/" not in name} <= FIGURES.keys()
    assert set(headline_figures(settings, outcomes({"label": {}}))) == {"minutes"}


def test_the_table_of_stages_leads_to_their_runs() -> None:
    table = stages_table(outcomes(METRICS), lambda run_id, text: f"[{text}](#{run_id})")
    assert "| [train_reward](#train_reward) | 1.5 min | 1.5 GB | made now |" in table.splitlines()
    assert table.splitlines()[-1].endswith("| reused |")


def test_links_stay_good_while_the_port_is_free(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOSLIM_MLFLOW", raising=False)
    first = link(ledger, "abc", "a run")
    assert first == link(ledger, "abc", "a run") and f"http://127.0.0.1:{kept_port(ledger.home)}/#/experiments/" in first
    assert link_within(ledger, "abc", "a run").startswith("[a run](#/experiments/") and "/runs/abc?" in link_within(ledger, "abc", "")
    port = kept_port(ledger.home)
    assert free_port(port) == port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert free_port(port) != port
    note_port(ledger.home, 99_999)
    assert 0 < free_port(kept_port(ledger.home)) < 65_536
    monkeypatch.setenv("MOSLIM_MLFLOW", "http://127.0.0.1:5000")
    assert link(ledger, "abc", "a run").startswith("[a run](http://127.0.0.1:5000/#/experiments/")


def test_the_list_of_runs_begins_with_the_figures(ledger: Ledger) -> None:
    tags = ledger.client.get_experiment(ledger.experiment_id).tags
    columns = json.loads(tags["mlflow.sharedViewState.moslim"])["selectedColumns"]
    assert columns[:2] == ["metrics.`control`", "metrics.`control_start`"] and "params.`seed`" in columns
