"""What the studio shows, made in seconds: a policy that is not its base, a reward model, a front, and the runs that say what belongs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from moslim_core.evaluation.fronts import Front, OperatingPoint
from moslim_core.preferences import PreferenceSchema
from moslim_core.statistics.bootstrap import Interval

SCHEMA = PreferenceSchema.model_validate(
    [
        {"name": "verbosity", "levels": ["short", "medium", "long"], "annotator": {"measure": "word_count", "thresholds": [1, 4]}},
        {"name": "warmth", "levels": ["cold", "warm"], "description": "how <warm> it is"},
        {"name": "harmlessness", "levels": ["harmful", "harmless"], "floor": 2},
    ]
)
LONGEST = 24
RUN_NAME = "mine, online DPO, seed 0"


def make_policy(base: Path, folder: Path, cache: Path) -> Path:
    """A random adapter on a random model: its answers are its own, and depend on what is asked for."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from moslim_core.models.identity import identify
    from moslim_core.training.adapters import adapter_config

    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(1)
    adapted = get_peft_model(model, adapter_config(model, 2, None, "CAUSAL_LM"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(folder)
    card = {
        "base": identify(str(base), cache).id.model_dump(), "preferences": SCHEMA.model_dump(mode="json"), "placement": "user_suffix",
        "optimiser": "rloo", "steps": 1, "max_new_tokens": LONGEST, "mapping": {}, "mapping_state": {}, "held_out": [],
    }  # fmt: skip
    (folder / "moslim_policy.json").write_text(json.dumps(card))
    return folder


def make_reward_model(encoder: Path, folder: Path) -> Path:
    from tests.core.policy.runs import random_reward_model

    return random_reward_model(encoder, SCHEMA.model_dump(mode="json"), folder)


def make_front(*points: tuple[dict[str, int], float, float]) -> Front:
    """Of points (levels, mean score of verbosity, of warmth)."""
    made = [
        OperatingPoint(
            weights={"verbosity": 0.5, "warmth": 0.5},
            levels=levels,
            scores={"verbosity": Interval(value=x, low=x, high=x), "warmth": Interval(value=y, low=y, high=y)},
            missing=0,
            non_dominated=index == 0,
        )
        for index, (levels, x, y) in enumerate(points)
    ]
    figure = Interval(value=0.1, low=0.0, high=0.2)
    return Front(
        points=made, reference={"verbosity": 0.1, "warmth": 0.1},
        hypervolume=figure, inner_product=figure, sparsity=figure, spacing=figure,
    )  # fmt: skip


def make_evaluation(folder: Path) -> Path:
    folder.mkdir(parents=True)
    points = ({"verbosity": 3}, 0.9, 0.3), ({"verbosity": 2, "warmth": 2}, 0.5, 0.8)
    (folder / "front.after.json").write_text(make_front(*points).model_dump_json())
    (folder / "front.before.json").write_text(make_front(({"verbosity": 3}, 0.4, 0.2)).model_dump_json())
    return folder


def record(work_dir: Path, policy: Path, reward_model: Path, evaluation: Path) -> None:
    """A pipeline's run and those of its stages that made these outputs, and a registered name; the folders given stay."""
    from moslim_core.settings import Settings
    from tasks.ledger.ledger import Ledger
    from tasks.ledger.of_work_dir import ledger_of
    from tasks.ledger.pipeline import open_pipeline
    from tasks.ledger.references import ArtifactRef, write_manifest
    from tasks.ledger.registry import Registry

    ledger: Ledger = ledger_of(work_dir)
    pipeline = open_pipeline(Settings(preferences=SCHEMA, seed=7, work_dir=work_dir), "report", RUN_NAME)

    def run(stage: str, kind: str, folder: Path, inputs: dict[str, ArtifactRef]) -> ArtifactRef:
        output = Path(shutil.copytree(folder, folder.with_name(f"{folder.name}-output")))
        made = ledger.open_stage(stage, stage * 4, pipeline, {})
        for name, ref in inputs.items():
            ledger.log_dataset(made, name, ref.digest, ref.uri)
        return ledger.finish(made, kind, output, write_manifest(output))

    rows_folder = evaluation.with_name("rows")
    rows_folder.mkdir()
    (rows_folder / "train.jsonl").write_text("")
    rows = run("label", "rows", rows_folder, {})
    reward = run("train_reward", "reward_model", reward_model, {"rows": rows})
    trained = run("train_policy", "policy", policy, {"rows": rows, "reward_model": reward})
    run("evaluate", "evaluation", evaluation, {"rows": rows, "policy": trained})
    ledger.close(pipeline, "FINISHED")
    registry = Registry(work_dir, "policy")
    registry.promote(registry.register(trained), "the test's")
