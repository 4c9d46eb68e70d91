"""Champion and challenger: every move is on record, and one that a kill cut short is finished by the next command."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from moslim_core.errors import UserError
from tasks.ledger.ledger import Ledger
from tasks.ledger.of_work_dir import ledger_of
from tasks.ledger.references import ArtifactRef, write_manifest
from tasks.ledger.registry import CHALLENGER, CHAMPION, Registry


class Killed(BaseException):
    """Stands for a process that ends between two writes."""


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One for all tests, each with a name of its own: a new store takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield tmp_path_factory.mktemp("work")


def finish(ledger: Ledger, folder: Path, text: str, pipeline: str | None = None) -> ArtifactRef:
    folder.mkdir()
    (folder / "policy.txt").write_text(text)
    run = ledger.open_stage("train_policy", text * 8, pipeline, {})
    return ledger.finish(run, "policy", folder, write_manifest(folder))


@pytest.fixture(scope="module")
def policies(work_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[ArtifactRef]:
    return [finish(ledger_of(work_dir), tmp_path_factory.mktemp("made") / text, text) for text in "abc"]


@pytest.fixture
def registry(work_dir: Path, policies: list[ArtifactRef], request: pytest.FixtureRequest) -> Registry:
    """A registry with three versions and no champion."""
    found = Registry(work_dir, re.sub(r"\W", "-", request.node.name))
    for policy in policies:
        found.register(policy)
    return found


def test_a_policy_has_one_version_however_often_it_is_registered(registry: Registry, tmp_path: Path, work_dir: Path) -> None:
    made = finish(ledger_of(work_dir), tmp_path / "d", "d")
    assert registry.register(made) == registry.register(made) == "4"
    assert registry.policy("4") == made
    assert ledger_of(work_dir).made("train_policy", made.digest) == made


def test_a_version_is_described_by_the_run_that_made_it(registry: Registry, tmp_path: Path) -> None:
    ledger, client = registry.ledger, registry.client

    def described(version: str) -> str:
        return client.get_model_version(registry.name, version).description

    assert described("1") == "train_policy.", "no pipeline made it"
    retraining = ledger.open_retraining("r", "retrain policy", {})
    pipeline = ledger.open_pipeline("p", "challenger", {}, retraining)
    made = finish(ledger, tmp_path / "f", "f", pipeline)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "findings.json").write_text(json.dumps({"headline": "It follows."}))
    report = ledger.finish(ledger.open_stage("report", "q", pipeline, {}), "report", tmp_path / "report", "digest")
    client.set_tag(pipeline, "moslim.run.report", report.run_id)
    version = registry.register(made)
    assert described(version) == "retrain policy, challenger. It follows."
    assert registry.register(made, "mine") == registry.register(made) == version
    assert described(version) == "mine"


def test_promote_and_rollback_go_along_the_champions_and_say_who_when_and_why(registry: Registry) -> None:
    assert registry.version_at(CHAMPION) is None
    registry.challenge("1", "trained")
    registry.promote("1", "first")
    assert registry.version_at(CHALLENGER) is None, "the champion challenges nobody"
    registry.promote("2", "better")
    assert registry.promote("2", "again") is None
    registry.promote("3", "better still")
    assert registry.rollback("worse").version == "2"
    assert registry.rollback("worse too").version == "1"
    with pytest.raises(UserError, match="no champion before this one"):
        registry.rollback("once more")
    assert registry.version_at(CHAMPION) == "1"
    told = [(m.kind, m.from_version, m.version, m.why) for m in registry.moves()]
    assert told == [
        ("challenge", None, "1", "trained"),
        ("promote", None, "1", "first"),
        ("promote", "1", "2", "better"),
        ("promote", "2", "3", "better still"),
        ("rollback", "3", "2", "worse"),
        ("rollback", "2", "1", "worse too"),
    ]
    assert all("@" in m.who and m.when and m.done for m in registry.moves())


@pytest.mark.parametrize("write", range(4))
def test_a_promotion_killed_between_any_two_writes_is_finished_by_a_repeat(
    registry: Registry, write: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.promote("1", "first")
    registry.challenge("2", "trained")
    with monkeypatch.context() as patch:
        kill_before(registry, write, patch)
        with pytest.raises(Killed):
            registry.promote("2", "better")
    registry.promote("2", "better")
    assert registry.version_at(CHAMPION) == "2" and registry.version_at(CHALLENGER) is None
    assert [m.version for m in registry.moves() if m.kind == "promote"] == ["1", "2"]
    assert all(m.done for m in registry.moves())


@pytest.mark.parametrize("write", range(3))
def test_a_rollback_killed_between_any_two_writes_goes_back_once(registry: Registry, write: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in "123":
        registry.promote(version, "better")
    with monkeypatch.context() as patch:
        kill_before(registry, write, patch)
        with pytest.raises(Killed):
            registry.rollback("worse")
    assert registry.rollback("worse").version == "2"
    assert registry.version_at(CHAMPION) == "2"
    assert [m.kind for m in registry.moves()].count("rollback") == 1


def kill_before(registry: Registry, write: int, patch: pytest.MonkeyPatch) -> None:
    """End the process before its write number `write` to the registry."""
    left = [write]
    for name in ("set_registered_model_tag", "set_registered_model_alias", "delete_registered_model_alias"):

        def writing(*arguments: str, real: object = getattr(registry.client, name)) -> None:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            real(*arguments)  # type: ignore[operator]

        patch.setattr(registry.client, name, writing)


def test_what_changed_on_disk_is_not_promoted(registry: Registry, tmp_path: Path) -> None:
    version = registry.register(finish(registry.ledger, tmp_path / "e", "e"))
    (registry.ledger.download(registry.policy(version).uri) / "policy.txt").write_text("other")
    with pytest.raises(UserError, match="have changed"):
        registry.promote(version, "first")
    assert registry.moves() == []


def test_unknown_names_and_versions_say_what_to_do(registry: Registry, work_dir: Path) -> None:
    with pytest.raises(UserError, match="not there any more"):
        registry.promote("9", "why")
    with pytest.raises(UserError, match="nothing is registered"):
        Registry(work_dir, "nobody").rollback("why")
    with pytest.raises(UserError, match="make a name"):
        Registry(work_dir, "a/b")
