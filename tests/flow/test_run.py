"""The whole path through the command line: what it leaves behind, what a second run and a killed run do."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path

from tasks.ledger.ledger import Ledger
from tests.flow.conftest import LIMIT, STEPS, Finished, Moslim, command, environment, inside, served

pytestmark = [pytest.mark.integration, pytest.mark.timeout(2 * LIMIT)]

STAGES = {"label", "train_reward", "train_policy", "evaluate", "report"}
# Two to each of a step's two requests.
ANSWERS = 4 * STEPS


def runs(work_dir: Path) -> list:
    client = MlflowClient(f"sqlite:///{work_dir}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("moslim")
    return list(client.search_runs([experiment.experiment_id]))


def stage_runs(work_dir: Path) -> dict[str, list]:
    found: dict[str, list] = {}
    for run in runs(work_dir):
        found.setdefault(run.data.tags["moslim.stage"], []).append(run)
    return found


def test_run_leaves_report_summary_and_models(finished: Finished) -> None:
    latest = finished.work_dir / "latest"
    page = (latest / "report.html").read_text()
    summary = json.loads((latest / "summary.json").read_text())
    assert "<svg" in page and "length" in page
    assert (latest / "policy" / "moslim_policy.json").is_file()
    assert (latest / "policy").resolve().is_relative_to(finished.work_dir.resolve())
    assert (latest / "reward_model" / "model.safetensors").is_file()
    assert "<html" in (latest / "data_card.html").read_text()
    assert summary["wall_seconds"] > 0 and summary["peak_memory_gb"] > 0
    assert set(summary["stages"]) == STAGES
    for system in ("before", "after"):
        assert summary["controllability"][system]["preferences"]["length"]["answers"] > 0
        assert summary["fronts"][system]["hypervolume"]["value"] >= 0 and summary["benchmarks"][system] == {}
        assert set(summary["attack"][system]["gave_way"]) == {"wish", "forged"}
    assert '<section id="front">' in page and '<section id="overoptimisation">' in page and '<section id="benchmarks">' not in page
    # As a shell takes them: the best controlled preference at both ends.
    chats = [shlex.split(line.removeprefix("next")) for line in finished.result.stdout.splitlines() if " chat --policy " in line]
    assert [Path(words[0]).name for words in chats] == [Path(sys.executable).name] * 2
    assert [words[words.index("--policy") + 1] for words in chats] == [str(finished.work_dir / "latest" / "policy")] * 2
    control = {n: of["spearman"]["value"] or -1 for n, of in summary["controllability"]["after"]["preferences"].items()}
    (asked,) = {words[-1].partition("=")[0] for words in chats}
    assert control[asked] == max(control.values()) and len({words[-1] for words in chats}) == 2


def test_nothing_is_written_outside_the_work_directory(finished: Finished) -> None:
    assert list(finished.home.rglob("*")) == []
    assert list(finished.cwd.rglob("*")) == []


def test_ledger_has_a_parent_and_a_finished_child_per_stage(finished: Finished) -> None:
    found = stage_runs(finished.work_dir)
    assert set(found) == STAGES | {"pipeline"}
    (parent,) = found.pop("pipeline")
    for (run,) in found.values():
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert len(run.data.tags["moslim.fingerprint"]) == 64
    client = MlflowClient(f"sqlite:///{finished.work_dir}/mlflow/mlflow.db")
    assert {file.path for file in client.list_artifacts(parent.info.run_id, "tables")} == {"tables/control.json", "tables/front.json"}
    figures = {Path(file.path).name for file in client.list_artifacts(parent.info.run_id, "figures")}
    assert {"control.png", "front.png", "training.png"} <= figures
    assert "**length**" in parent.data.tags["mlflow.note.content"]
    rewards = client.get_metric_history(found["train_policy"][0].info.run_id, "reward")
    assert sorted(m.step for m in rewards) == list(range(1, STEPS + 1))
    kl = {m.step: m.value for m in client.get_metric_history(found["train_policy"][0].info.run_id, "kl")}
    assert kl[1] == pytest.approx(0.0, abs=1e-6), "the reference is the policy at step 0"


@pytest.fixture(scope="module")
def again(finished: Finished) -> Iterator[Finished]:
    """The finished run with a Prefect server that stays, as under `moslim ui`: commands in its work directory find it."""
    with served(finished.work_dir):
        yield finished


def test_second_run_reuses_every_stage(again: Finished, profile: Path) -> None:
    before = {name: len(found) for name, found in stage_runs(again.work_dir).items()}
    summary = again.work_dir / "latest" / "summary.json"
    cost = json.loads(summary.read_text())["cost"]
    assert cost["seconds"] > 0 and cost["peak_memory_gb"] > 0
    result = inside("run", "--profile", str(profile), "--set", f"work_dir={again.work_dir}")
    assert result.exit_code == 0, result.output
    assert json.loads(summary.read_text())["cost"] == cost
    after = {name: len(found) for name, found in stage_runs(again.work_dir).items()}
    assert after == {**before, "pipeline": before["pipeline"] + 1}
    assert "reused: label, train_reward, train_policy, evaluate, report" in result.stdout
    result = inside("run", "--profile", str(profile), "--set", f"work_dir={again.work_dir}", "--json")
    told = json.loads(result.stdout)
    assert told.pop("folder") == str(again.work_dir / "latest") and told == json.loads(summary.read_text())


def test_a_plan_knows_what_is_reused(again: Finished, profile: Path) -> None:
    result = inside("plan", "--profile", str(profile), "--set", f"work_dir={again.work_dir}", "--json")
    assert result.exit_code == 0, result.output
    assert {s["name"]: s["reused"] for s in json.loads(result.stdout)["stages"]} == dict.fromkeys(STAGES, True)


def test_damaged_output_is_made_again(again: Finished, profile: Path) -> None:
    """A stage whose output changed on disk is not trusted; the same settings give the same output digest, so the rest is reused."""
    (old,) = stage_runs(again.work_dir)["label"]
    output = Path(local_file_uri_to_path(old.info.artifact_uri)) / "output" / "train.jsonl"
    output.write_text(output.read_text() + "\n")
    result = inside("label", "--profile", str(profile), "--set", f"work_dir={again.work_dir}")
    assert result.exit_code == 0, result.output
    digests = {run.data.tags["moslim.output_digest"] for run in stage_runs(again.work_dir)["label"]}
    assert len(stage_runs(again.work_dir)["label"]) == 2 and len(digests) == 1


def test_chat_and_score_take_what_the_run_made(again: Finished, tmp_path: Path) -> None:
    latest, here = again.work_dir / "latest", ("--work-dir", str(again.work_dir))
    speak = ("chat", "--policy", str(latest / "policy"), "--message", "Why?", *here)
    spoken = inside(*speak, "--prefer", "length=1")
    assert spoken.exit_code == 0, spoken.output
    refused = inside(*speak, "--prefer", "length=9")
    assert refused.exit_code == 2 and "length=9" in refused.stderr and "Traceback" not in refused.stderr
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Why?", "response": "the fox"}\n{"prompt": "How?", "response": "bread and salt"}\n')
    scored = inside("score", "--reward-model", str(latest / "reward_model"), "--input", str(rows), "--prefer", "length=1", *here)
    assert scored.exit_code == 0, scored.output
    lines = [json.loads(line) for line in scored.stdout.splitlines()]
    assert [line["prompt"] for line in lines] == ["Why?", "How?"]
    for line in lines:
        assert sum(line["scores"]["length"]["probabilities"]) == pytest.approx(1, abs=1e-4)
        assert 0 <= line["reward"] <= 1
    choices, figures = tmp_path / "pairs.jsonl", tmp_path / "figures.json"
    choices.write_text('{"prompt": "Why?", "chosen": "the fox and bread and salt and good yeast and a dog", "rejected": "fox"}\n')
    paired = inside(
        "reward", "pairs", "--reward-model", str(latest / "reward_model"), "--input", str(choices), "--preference", "length",
        "--output", str(figures), *here,
    )  # fmt: skip
    assert paired.exit_code == 0, paired.output
    assert json.loads(figures.read_text())["length"]["pairs"] == 1 and "length" in paired.stdout


def test_kill_9_during_policy_training_resumes(
    finished: Finished, profile: Path, moslim: Moslim, prepared: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Same command after a kill: same fingerprint, one run per stage, every step once, the result of an undisturbed run.

    It begins as the finished run, moved elsewhere, which has never trained a policy.
    """
    work_dir, home = tmp_path / "work", tmp_path / "home"
    home.mkdir()
    undisturbed = stage_runs(finished.work_dir)["train_policy"][0].data.tags
    adapter = (finished.work_dir / "latest" / "policy" / "adapter_model.safetensors").read_bytes()
    # A server may write into its database meanwhile.
    shutil.copytree(finished.work_dir, prepared(work_dir), symlinks=True, ignore=shutil.ignore_patterns("prefect"), dirs_exist_ok=True)
    Ledger(work_dir)
    client = MlflowClient(f"sqlite:///{work_dir}/mlflow/mlflow.db")
    before = stage_runs(work_dir)
    trained = before.pop("train_policy")
    for run in trained:
        shutil.rmtree(local_file_uri_to_path(run.info.artifact_uri))
        client.delete_run(run.info.run_id)

    arguments = ["policy", "--profile", str(profile), "--set", f"work_dir={work_dir}"]
    process = subprocess.Popen(
        command(*arguments), env=environment(home), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + LIMIT
    while not list(work_dir.glob("stages/*/checkpoints/checkpoint-[46]/complete.json")):
        assert process.poll() is None and time.monotonic() < deadline, "the run never came to a checkpoint"
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _gone, alive = psutil.wait_procs(family, timeout=15)
    assert not alive, f"processes outlived their parent: {alive}"

    result = moslim(*arguments, home=home)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "train_policy: resuming" in result.stderr
    found = stage_runs(work_dir)
    (resumed,) = found.pop("train_policy")
    assert {name: len(of) for name, of in found.items()} == {name: len(of) + (name == "pipeline") for name, of in before.items()}
    assert all(run.info.status == "FINISHED" for run in [resumed, *(run for of in found.values() for run in of)])
    steps = Counter(m.step for m in client.get_metric_history(resumed.info.run_id, "reward"))
    assert steps == dict.fromkeys(range(1, STEPS + 1), 1)
    assert resumed.data.tags["moslim.fingerprint"] == undisturbed["moslim.fingerprint"]
    assert (work_dir / "latest" / "policy" / "adapter_model.safetensors").read_bytes() == adapter


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["policy.stepz=3"], "did you mean policy.steps?"),
        (["data.columns.prompt=question"], "column 'question' is missing"),
        (["work_dir=/dev/null/work"], "can't be written"),
    ],
)
def test_bad_input_is_three_lines_and_code_2(overrides: list[str], says: str, profile: Path, moslim: Moslim, again: Finished) -> None:
    summary = (again.work_dir / "latest" / "summary.json").read_bytes()
    given = {value.partition("=")[0]: value for value in [f"work_dir={again.work_dir}", *overrides]}
    arguments = [part for value in given.values() for part in ("--set", value)]
    result = moslim("run", "--profile", str(profile), *arguments)
    # What says that work is going on is no part of the refusal.
    waiting = ("label: ", "profile ", "about ", "starting, ")
    told = [line for line in result.stderr.splitlines() if line.strip() and not line.startswith(waiting)]
    assert result.returncode == 2, result.stderr
    assert says in result.stderr
    assert len(told) <= 3, result.stderr
    assert (again.work_dir / "latest" / "summary.json").read_bytes() == summary


def test_compare_reuses_what_is_there_and_records_all_runs(again: Finished, profile: Path) -> None:
    """One value and seed is the finished run's own: its stages are not run again; a second call runs nothing."""
    arguments = ["compare", "--over", "reward.epochs=2,1", "--seeds", "0", "--profile", str(profile)]
    before = stage_runs(again.work_dir)
    result = inside(*arguments, "--set", f"work_dir={again.work_dir}")
    assert result.exit_code == 0, result.output
    after = stage_runs(again.work_dir)
    assert len(after["train_reward"]) == len(before["train_reward"]) + 1 and len(after["label"]) == len(before["label"])
    (folder,) = (again.work_dir / "comparisons").glob("reward.epochs-*")
    found = json.loads((folder / "compare.json").read_text())
    assert found["variants"] == ["2", "1"] and set(found["figures"]["length/auc"]) == {"2", "1"}
    assert "area under the ROC curve of length ↑" in (folder / "compare.html").read_text()
    (parent,) = [run for run in after["comparison"] if "1/length/auc" in run.data.metrics]
    children = [run for run in after["pipeline"] if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == 2 and parent.data.metrics["1/length/auc"] == found["figures"]["length/auc"]["1"]["mean"]["value"]
    assert json.loads((again.work_dir / "latest" / "summary.json").read_text())["stages"], "the last run stays the last run"
    with sqlite3.connect(again.work_dir / "prefect" / "prefect.db") as server:
        states = server.execute("SELECT state_type FROM flow_run JOIN flow ON flow.id = flow_id WHERE flow.name = 'compare'").fetchall()
    assert states == [("COMPLETED",)], "it ran on the server that `moslim ui` shows, not on one of Prefect's own"


def test_compare_of_one_process_with_two_beside_the_starting_model(
    again: Finished, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finished run's own policy was trained in one process."""
    arguments = ["compare", "--over", "policy.processes=1,2", "--seeds", "0", "--profile", str(profile)]
    before = stage_runs(again.work_dir)
    for name in ("HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    result = inside(*arguments, "--set", f"work_dir={again.work_dir}")
    assert result.exit_code == 0, result.output
    assert list(tmp_path.rglob("*")) == []
    (folder,) = (again.work_dir / "comparisons").glob("policy.processes-*")
    found = json.loads((folder / "compare.json").read_text())
    assert found["variants"] == ["prompt only", "1", "2"]
    assert set(found["figures"]["length/mae"]) == {"prompt only", "1", "2"}
    assert found["seconds"]["prompt only"] == 0 < found["seconds"]["2"]
    assert [set(of["answers"]) for of in found["sample"]["requests"]] == [{"prompt only", "1", "2"}] * 4
    after = stage_runs(again.work_dir)
    (new,) = {run.info.run_id for run in after["train_policy"]} - {run.info.run_id for run in before["train_policy"]}
    client = MlflowClient(f"sqlite:///{again.work_dir}/mlflow/mlflow.db")
    # One process writes: a point per step, not one per process.
    assert len(client.get_metric_history(new, "reward")) == STEPS


def test_compared_systems_are_stages_of_one_run(again: Finished, profile: Path) -> None:
    """The finished run's own rows and reward model are used; a second call runs nothing."""
    arguments = ["compare", "--baselines", "rewarded_soups,moslim_rloo", "--seeds", "0", "--profile", str(profile)]
    before = stage_runs(again.work_dir)
    result = inside(*arguments, "--set", f"work_dir={again.work_dir}")
    assert result.exit_code == 0, result.output
    (folder,) = (again.work_dir / "comparisons").glob("systems-*")
    found = json.loads((folder / "compare.json").read_text())
    soups = ["personalised_soups", "rewarded_soups", "rewarded_soups_exact"]
    assert found["variants"] == ["prompt_only", *soups, "moslim_rloo"]
    assert set(found["figures"]["front/hypervolume"]) == set(found["variants"])
    assert all(gigabytes > 0.1 for gigabytes in found["costs"]["peak memory, GB"].values())
    assert found["costs"]["training answers"] == {"prompt_only": 0, **dict.fromkeys(soups, ANSWERS), "moslim_rloo": ANSWERS}
    (soup,) = [run for run in found["runs"] if run["variant"] == "rewarded_soups"]
    assert soup["seed"] == 0 and soup["costs"]["training answers"] == ANSWERS and soup["costs"]["seconds of training: update"] > 0
    assert {"value", "low", "high"} <= set(soup["over_prompts"]["front/hypervolume"])
    page = (folder / "compare.html").read_text()
    assert "rewarded_soups_exact" in page and "Not finished" not in page and found["missing"] == ""
    assert [set(of["answers"]) for of in found["sample"]["requests"]] == [set(found["variants"])] * 4
    (parent,) = [run for run in stage_runs(again.work_dir)["comparison"] if "rewarded_soups/length/mae" in run.data.metrics]
    assert "rewarded_soups" in parent.data.tags["mlflow.note.content"].partition("\n")[0]
    with sqlite3.connect(again.work_dir / "prefect" / "prefect.db") as server:
        ((shown,),) = server.execute("SELECT data FROM artifact WHERE key = 'comparison' ORDER BY created DESC LIMIT 1").fetchall()
    assert str(folder / "compare.html") in json.loads(shown)
    assert found["sample"]["prompt"] in page and found["about"]["rewarded_soups_exact"].startswith("Rewarded Soups")
    assert "rows stand in" in result.stderr
    after = stage_runs(again.work_dir)
    new = {name: of for name, of in after.items() if name.startswith("compared_")}
    assert set(new) == {"compared_prompt_only", "compared_rewarded_soups", "compared_moslim_rloo"}
    assert len(after["train_reward"]) == len(before["train_reward"])
    assert len(after["train_policy"]) == len(before["train_policy"]) + 1, "held-out combinations are no part of a comparison"
    parents = {run.data.tags["mlflow.parentRunId"] for of in new.values() for run in of}
    assert len(parents) == 1 and parents <= {run.info.run_id for run in after["comparison"]}
    planned = inside("plan", "--baselines", "rewarded_soups,rlphf,moslim_rloo", "--seeds", "0", "--profile", str(profile), "--json",
                     "--set", f"work_dir={again.work_dir}")  # fmt: skip
    assert planned.exit_code == 0, planned.output
    known = {system["name"]: system["reused"] for system in json.loads(planned.stdout)["systems"]}
    assert known == {"prompt_only": True, "rewarded_soups": True, "rlphf": False, "moslim_rloo": True}
    again_result = inside(*arguments, "--set", f"work_dir={again.work_dir}")
    assert again_result.exit_code == 0 and "compared_moslim_rloo: reused" in again_result.stderr
    assert "all 3 systems are here" in again_result.stderr
    assert len(stage_runs(again.work_dir)["compared_rewarded_soups"]) == 1


def test_systems_keep_the_learning_rate_that_suits_them(again: Finished, profile: Path) -> None:
    arguments = ["compare", "--baselines", "moslim_rloo", "--seeds", "0", "--search", "1,4", "--profile", str(profile)]
    result = inside(*arguments, "--set", f"work_dir={again.work_dir}")
    assert result.exit_code == 0, result.output
    after = stage_runs(again.work_dir)
    suits = {
        float(run.data.params["policy.learning_rate"]): run.data.metrics["moslim_rloo/suitability"] for run in after["compared_moslim_rloo"]
    }
    assert len(suits) == 2
    kept = max(suits, key=lambda rate: suits[rate])
    pages = [json.loads(file.read_text()) for file in (again.work_dir / "comparisons").glob("systems-*/compare.json")]
    (notes,) = [page["notes"] for page in pages if page["variants"] == ["prompt_only", "moslim_rloo"]]
    assert notes[-1].endswith(f"Kept: moslim_rloo {kept / min(suits):g}.")
    (page,) = [page for page in pages if page["variants"] == ["prompt_only", "moslim_rloo"]]
    (run,) = [run for run in page["runs"] if run["variant"] == "moslim_rloo"]
    (stage,) = [of for of in after["compared_moslim_rloo"] if float(of.data.params["policy.learning_rate"]) == kept]
    assert run["figures"]["front/hypervolume"] == stage.data.metrics["moslim_rloo/front/hypervolume"]
    spent = page["costs"]["seconds of search for the learning rate"]
    assert spent["prompt_only"] == 0 < spent["moslim_rloo"] and "the rest takes about" in result.stderr


def test_one_kind_of_comparison_at_a_time(profile: Path, tmp_path: Path) -> None:
    for arguments, says in ([], "either --over"), (["--baselines", "magic"], "write all, or some of prompt_only"):
        result = inside("compare", *arguments, "--profile", str(profile), "--set", f"work_dir={tmp_path}")
        assert result.exit_code == 2 and says in result.stderr
