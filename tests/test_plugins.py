"""A package from outside adds one of each kind: the examples of docs/extending.md, installed, named everywhere, and run."""

from __future__ import annotations

import itertools
import json
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from moslim_core import plugins, registry
from moslim_core.baselines import methods
from moslim_core.errors import UserError
from moslim_core.registry import KINDS
from moslim_core.reward.settings import MappingSettings
from moslim_core.settings import Settings, described
from tests.core.baselines.conftest import context, reward_folder  # noqa: F401 - fixtures
from tests.plugged import ROOT, examples, plugged, written
from tests.tasks.test_evaluation_stage import job, policy  # noqa: F401 - a fixture

FILES = examples()
MINE = {
    "utility": "squared", "head": "smoothed", "optimiser": "reinforce", "engine": "one_by_one", "benchmark": "capitals",
    "baseline": "unasked", "source": "reviews", "measure": "digits",
}  # fmt: skip
SECTIONS = {"utility": "MappingSettings", "head": "RewardSettings", "optimiser": "PolicySettings", "engine": "PolicySettings"}
LISTS = {"benchmark": "EvaluationSettings", "source": "DataSettings"}
PREFERENCES = [
    {"name": "helpfulness", "levels": ["low", "middling", "high"]},
    {"name": "numbers", "levels": ["none", "some"], "annotator": {"measure": "digits", "thresholds": [0]}},
]


def install(folder: Path, version: str = "0.1", files: dict[str, str] = FILES) -> Path:
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    (module,) = project["entry-points"][plugins.GROUP].values()
    return written(folder, files, project["name"], version, module)


@pytest.fixture
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with plugged(install(tmp_path_factory.mktemp("site"))):
        yield


def test_the_guide_shows_one_of_each_kind() -> None:
    assert MINE.keys() == KINDS.keys()
    own = {f"my_moslim/{name}.py" for name in MINE.values()}
    assert FILES.keys() == own | {"pyproject.toml", "my_moslim/__init__.py"}
    # Ten lines each, imports and blank lines aside.
    assert all(sum(bool(line.strip()) and "import" not in line for line in FILES[name].splitlines()) <= 16 for name in own)


def about(kind: str) -> str:
    return KINDS[kind].listed()[MINE[kind]]


def test_help_and_documents_tell_them(mine: None) -> None:
    from flows.cli.commands import app

    told = "\n".join(what for keys in described().values() for _, _, what in keys)
    page = runpy.run_path(str(ROOT / "docs" / "make_settings.py"))["page"]()
    shown = {command: CliRunner().invoke(app, [command, "--help"]).output for command in ("run", "compare")}
    for kind in KINDS:
        line = f"{MINE[kind]}: {about(kind)}"
        assert about(kind)
        if kind == "baseline":
            assert f"{MINE[kind]}  {about(kind)}" in shown["compare"]
        else:
            assert line in told and line in page and line in shown["run"]
    assert "moslim_reinforce" in shown["compare"] and "moslim_reinforce" in methods()


def test_the_form_offers_them(mine: None) -> None:
    from prefect.utilities.callables import parameter_schema

    from flows.align import align

    forms = parameter_schema(align).definitions
    for kind, section in SECTIONS.items():
        assert MINE[kind] in forms[section]["properties"][kind]["enum"]
    for kind, section in LISTS.items():
        assert MINE[kind] in forms[section]["properties"][KINDS[kind].setting]["items"]["enum"]
    assert "digits" in forms["RuleAnnotator"]["properties"]["measure"]["enum"]


def test_without_it_its_names_are_refused_and_the_known_ones_told() -> None:
    from flows.profile import load

    with pytest.raises(UserError, match=r"mapping.utility.*'ordinal' or 'within_sample_z'; got 'squared'"):
        load("demo", ["mapping.utility=squared"])


def test_a_utility_maps(mine: None) -> None:
    from moslim_core.preferences import PreferenceSchema, Targets
    from moslim_core.reward.mapping import RewardMapping

    schema = PreferenceSchema.model_validate(PREFERENCES[:1])
    mapping = RewardMapping(schema, MappingSettings(utility="squared", standardisation="none"))
    p = np.array([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]])
    assert mapping({"helpfulness": p}, [Targets({"helpfulness": 1})] * 2).rewards.tolist() == [0.5, 0.75]


def test_a_policy_learns_by_an_optimiser_on_what_an_engine_draws_under_a_reward_with_a_head(
    mine: None, tiny_chat: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    from moslim_core.preferences import PreferenceSchema
    from moslim_core.reward.model import create
    from tests.core.policy import runs

    reward, tokenizer = create(str(tiny_encoder), PreferenceSchema.model_validate(runs.PREFERENCES), None, 32, head="smoothed")
    assert reward.heads[0].row_losses(torch.zeros(1, 3), torch.tensor([1])).item() == pytest.approx(np.log(3))
    reward.save_pretrained(folder := tmp_path / "reward")
    tokenizer.save_pretrained(folder)
    own = {"optimiser": "reinforce", "engine": "one_by_one", "steps": 2}
    runs.train(tmp_path, tiny_chat, folder, "output", {"utility": "squared", "standardisation": "none"}, **own)
    assert len(runs.metrics(tmp_path, "output")) == 2
    card = json.loads(next((tmp_path / "output").glob("*policy*.json")).read_text())
    assert (card["optimiser"], card["mapping"]["utility"]) == ("reinforce", "squared")


def test_a_benchmark_is_a_part_of_the_stage_that_evaluates(mine: None, policy: Path, tmp_path: Path) -> None:  # noqa: F811
    from moslim_core.evaluation.suite import read_benchmarks
    from tasks.stages.evaluate import work

    numbers = work(job(tmp_path, policy, suite="capitals"))
    found = read_benchmarks(tmp_path / "output", "after")["capitals"].result
    assert (found.items, found.measures["named"].overall.judged) == (3, 3)
    assert "after/capitals/named" in numbers


def test_a_compared_system_is_measured(mine: None, context: Callable[..., Any]) -> None:  # noqa: F811
    from moslim_core.baselines.measure import measure, read_rows

    made = context()
    measure("unasked", made)
    assert [(row.name, row.cost.policies) for row in read_rows(made.output)] == [("unasked", 0)]


def whole(tiny_chat: Path, folder: Path, **more: Any) -> Settings:
    (rows := folder / "rows").mkdir(exist_ok=True)
    ways = [f"From {there} to {back}?" for there, back in itertools.combinations(WORDS, 2)]
    stars = [{"question": way, "text": f"{n} km." if n % 2 else "Far.", "stars": 1 + n % 3} for n, way in enumerate(ways)]
    (rows / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in stars))
    model = {"base": str(tiny_chat), "device": "cpu", "dtype": "float32"}
    data = {"source": "reviews", "path": str(rows)}
    given = {"work_dir": folder / "work", "preferences": PREFERENCES, "model": model, "data": data, "annotation": {"fill": "rules"}}
    return Settings.model_validate(given | more)


WORDS = ("rome", "delhi", "cairo", "quito", "oslo", "lagos", "lyon", "perth", "hanoi", "sofia", "bonn", "tunis")


@pytest.mark.integration
def test_a_whole_stage_reads_a_source_and_counts_a_measure_in_a_process_of_its_own(mine: None, tiny_chat: Path, tmp_path: Path) -> None:
    from tasks.execution.launcher import Launch, run_worker
    from tasks.execution.stage import Job

    settings = whole(tiny_chat, tmp_path, evaluation={"judge": "reward_model"})
    folders = {name: tmp_path / name for name in ("output", "checkpoints", "events", "cache")}
    (file := tmp_path / "job.json").write_text(Job(stage="label", settings=settings, inputs={}, **folders).model_dump_json())
    run_worker(file, folders["events"], tmp_path / "log", lambda event: None, Launch())
    rows = [json.loads(line) for line in (tmp_path / "output" / "train.jsonl").read_text().splitlines()]
    assert rows and all(row["source"] == "reviews" for row in rows)
    assert all(row["labels"]["numbers"] == (2 if "km" in row["response"] else 1) for row in rows)
    assert {row["labels"]["helpfulness"] for row in rows} == {1, 2, 3}


def test_what_uses_a_plug_in_is_made_again_when_that_changes_and_nothing_else_is(
    tiny_chat: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    from tasks.execution.stage import fingerprint
    from tasks.ledger.references import ArtifactRef
    from tasks.stages import compare_systems, evaluate, label, train_policy, train_reward

    inputs = {"reward_model": ArtifactRef(kind="reward_model", uri="x", digest="d", run_id="r")}
    stages = {s.name: s for s in (label.STAGE, train_reward.REWARD_STAGE, evaluate.STAGE)}
    fed = {s.name: s for s in (train_policy.STAGE, *map(compare_systems.stage_of, ("best_of_n", "cpo")))}

    def prints(**more: Any) -> dict[str, str]:
        plain = {"preferences": PREFERENCES[:1], "data": {}, "annotation": {}, "reward": {"backbone": str(tiny_encoder)}} | more
        settings = whole(tiny_chat, tmp_path, **plain)
        own = {"compared_unasked": compared} if (compared := own_stage()) else {}
        return {
            name: fingerprint(stage, settings, inputs if name in fed or name in own else {}) for name, stage in (stages | fed | own).items()
        }

    def own_stage() -> Any:
        return compare_systems.stage_of("unasked") if "unasked" in methods() else None

    uses: list[tuple[dict[str, Any], set[str]]] = [
        ({}, {"compared_unasked"}),
        ({"mapping": {"utility": "squared"}}, {"train_policy", "compared_best_of_n", "compared_unasked"}),
        ({"reward": {"backbone": str(tiny_encoder), "head": "smoothed"}}, {"train_reward", *fed, "compared_unasked"}),
        ({"data": {"source": "reviews", "path": str(tmp_path / "rows")}}, {"label", "compared_unasked"}),
        ({"evaluation": {"suite": "capitals"}}, {"evaluate", "compared_best_of_n", "compared_cpo", "compared_unasked"}),
        ({"preferences": PREFERENCES}, {*stages, *fed, "compared_unasked"}),
    ]
    without, found = prints(), []
    changed = {name: text.replace("far levels cost more", "near levels cost less") for name, text in FILES.items()}
    for number, (version, files) in enumerate((("0.1", FILES), ("0.2", FILES), ("0.2", changed))):
        with plugged(install(tmp_path / f"site{number}", version, files)):
            found.append([prints(**more) for more, _ in uses])
    assert without.items() < found[0][0].items(), "what does not use it is as without it"
    for (_, expected), *versions in zip(uses, *found, strict=True):
        for old, new in itertools.pairwise(versions):
            assert {name for name in old if old[name] != new[name]} == expected


def test_plug_ins_that_share_a_namespace_are_told_apart(tmp_path: Path) -> None:
    from tasks.execution.stage import makers

    for name in ("first", "second"):
        text = f"from moslim_core.registry import utility\n@utility('{name}')\ndef mine(p, target):\n    'mine'\n    return p[:, 0]\n"
        written(
            tmp_path,
            {f"company/{name}/own.py": text, f"company/{name}/__init__.py": "from . import own"},
            f"of-{name}",
            "1",
            f"company.{name}",
        )
    with plugged(tmp_path):
        assert [of["distribution"] for of in makers({"mapping": {"utility": "second"}})] == ["of-second"]
        assert [of["distribution"] for of in makers([{"utility": name} for name in ("second", "first", "ordinal")])] == [
            "of-first",
            "of-second",
        ]


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_of_what_to_add_where_says_where(kind: str) -> None:
    home = KINDS[kind].home.replace(".", "/")
    place = f"{home}/NAME.py" if (ROOT / home).is_dir() else f"{home}.py"
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith("|") and f"`@{kind}`" in line]
    assert f"`{place}`" in row


def test_one_file_of_the_library_is_all_that_it_takes(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "moslim_core", tmp_path / "moslim_core", ignore=shutil.ignore_patterns("__pycache__", "*.gz"))
    for kind, name in MINE.items():
        place, text = tmp_path / KINDS[kind].home.replace(".", "/"), FILES[f"my_moslim/{name}.py"]
        if place.is_dir():
            (place / f"{name}.py").write_text(text)
        else:
            file = place.with_suffix(".py")
            file.write_text(file.read_text() + "\n\n" + text)
    script = (
        "import json; from moslim_core.registry import KINDS; from moslim_core.settings import described\n"
        "print(json.dumps({kind: of.listed() for kind, of in KINDS.items()})); told = str(described())\n"
        f"MINE = {MINE}\n"
        "for kind, name in MINE.items(): assert kind == 'baseline' or name in told\n"
        # The others cost the import of torch, and are run above.
        "for kind in ('utility', 'source', 'measure'): assert KINDS[kind][name := MINE[kind]].name == name\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert all(name in listed[kind] and list(listed[kind]) != list(KINDS[kind].listed()) for kind, name in MINE.items())


def test_names_are_listed_and_no_heavy_library_is_imported() -> None:
    heavy = "[m for m in ('torch', 'transformers', 'prefect') if m in sys.modules]"
    script = f"import sys, flows.cli.commands as cli; cli.common_settings(); cli._systems(); print({heavy})"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_stands_in_a_registry_says_so_itself() -> None:
    for kind, of in KINDS.items():
        assert of.own and all(line and not line.endswith(".") for line in of.listed().values()), kind
        assert all(of[name].name == name for name in of.own)
    assert registry.utility.plugged("ordinal") is None
