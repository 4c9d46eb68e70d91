"""A trained policy is a model of MLflow's: its own loader opens it by its alias, and it still is what was registered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import pandas as pd
import pytest

from moslim_core.errors import UserError
from moslim_core.policy.steerable import SteerablePolicy
from tasks.ledger.ledger import Ledger
from tasks.ledger.of_work_dir import ledger_of
from tasks.ledger.references import MANIFEST, ArtifactRef, write_manifest
from tasks.ledger.registry import CHAMPION, Registry
from tests.studio.made import LONGEST, make_policy

PROMPTS = ["How do I bake bread?", "How do I bake bread?", "Tell me about rain."]
WISHES = ["verbosity=1,warmth=cold", "verbosity=3,warmth=warm", None]
GREEDY = {"temperature": 0.0}


class Made(NamedTuple):
    registry: Registry
    policy: ArtifactRef
    base: str


@pytest.fixture(scope="module")
def made(tiny_chat: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """A policy that a run published, and that is the champion."""
    home = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        ledger: Ledger = ledger_of(home)
        folder = make_policy(tiny_chat, tmp_path_factory.mktemp("made") / "policy", home / "models")
        policy = ledger.finish(ledger.open_stage("train_policy", "f" * 64, None, {}), "policy", folder, write_manifest(folder))
        registry = Registry(home, "policy")
        registry.promote(registry.register(policy), "first")
        patch.setenv("MLFLOW_TRACKING_URI", ledger.uri)
        yield Made(registry, policy, str(tiny_chat))


@pytest.fixture(scope="module")
def loaded(made: Made) -> Any:
    return mlflow.pyfunc.load_model(f"models:/policy@{CHAMPION}", model_config={"base": made.base, "device": "cpu"})


def test_the_champion_is_loaded_and_answers_each_row_under_its_own_preferences(made: Made, loaded: Any) -> None:
    rows = pd.DataFrame({"prompt": PROMPTS, "preferences": WISHES})
    folder = made.registry.ledger.download(made.policy.uri)
    policy = SteerablePolicy.from_pretrained(folder, device="cpu", base=made.base)
    targets = [{"verbosity": 1, "warmth": 1}, {"verbosity": 3, "warmth": 2}, None]
    answers = loaded.predict(rows, params=GREEDY)
    assert answers == [answer.text for answer in policy.chat_batch(PROMPTS, targets, temperature=0.0)]
    assert answers[0] != answers[1]
    assert loaded.predict(rows.to_dict("records"), params=GREEDY) == answers
    alone = policy.chat_batch([PROMPTS[2]], [None], temperature=0.0)
    assert loaded.predict([{"prompt": PROMPTS[2]}], params=GREEDY) == [alone[0].text], "no preferences at all"
    with pytest.raises(UserError, match="can't be requested"):
        loaded.predict([{"prompt": PROMPTS[0], "preferences": "warmth=9"}])


def test_mlflow_shows_signature_and_example(made: Made, loaded: Any) -> None:
    info = mlflow.models.get_model_info(f"runs:/{made.policy.run_id}/output")
    assert [(c.name, c.type.name, c.required) for c in info.signature.inputs] == [
        ("prompt", "string", True),
        ("preferences", "string", False),
    ]
    assert {p.name: p.default for p in info.signature.params} == {"temperature": 0.7, "max_new_tokens": LONGEST, "seed": 0}
    assert [c.type.name for c in info.signature.outputs] == ["string"]
    assert list(loaded.input_example["preferences"]) == ["verbosity=1", "verbosity=3"]
    assert len(loaded.predict(loaded.input_example, params={"max_new_tokens": 2})) == 2
    (shown,) = json.loads(made.registry.client.get_run(made.policy.run_id).data.tags["mlflow.log-model.history"])
    assert (shown["artifact_path"], shown["run_id"]) == ("output", made.policy.run_id)


def test_what_is_there_for_mlflow_changes_no_policy(made: Made, loaded: Any) -> None:
    folder = made.registry.ledger.download(made.policy.uri)
    assert {"MLmodel", "input_example.json"}.isdisjoint(json.loads((folder / MANIFEST).read_text()))
    assert made.registry.ledger.made("train_policy", made.policy.digest) == made.policy
    assert made.registry.policy("1") == made.policy


def test_other_outputs_are_no_models(made: Made, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "train.jsonl").write_text("")
    ledger = made.registry.ledger
    ref = ledger.finish(ledger.open_stage("label", "e" * 64, None, {}), "rows", rows, write_manifest(rows))
    assert sorted(file.name for file in ledger.download(ref.uri).iterdir()) == [MANIFEST, "train.jsonl"]
