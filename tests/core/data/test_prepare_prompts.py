"""Prompts of the label stage: those that are too long, those to evaluate on, never trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moslim_core.data.rows import read_json_lines
from tests.core.data.labelling import asked, keys, rated, refused

LENGTHS = [("short", "train", 1), ("long", "train", 150), ("brief", "test", 1), ("lengthy", "test", 110)]


def lengths(tmp_path: Path, **policy: int) -> dict[str, Any]:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": name + " rain" * n, "split": split}) + "\n" for name, split, n in LENGTHS))
    return {"prompts": prompts, **policy}


def test_prompts_over_the_limit_are_left_out_and_counted(stage: Any, tmp_path: Path) -> None:
    _, card = stage(rated(), policy=lengths(tmp_path, max_prompt_tokens=100))
    assert card["prompts"] == {"training": 1, "evaluation": 1}
    assert card["dropped"]["prompt longer than policy.max_prompt_tokens"] == 2


def test_prompts_beyond_the_context_are_left_out_and_counted(stage: Any, tmp_path: Path) -> None:
    # The tiny model's context is 512: with 340 tokens of answer, and room for a distractor, about 120 are left for the prompt.
    _, card = stage(rated(), policy=lengths(tmp_path, max_prompt_tokens=500, max_new_tokens=340))
    assert card["prompts"] == {"training": 1, "evaluation": 1}
    assert card["dropped"]["prompt longer than the model's context less policy.max_new_tokens"] == 2


def test_context_without_room_for_any_prompt_is_refused(stage: Any, tmp_path: Path) -> None:
    message = refused(lambda: stage(rated(), policy=lengths(tmp_path, max_prompt_tokens=500, max_new_tokens=500)), tmp_path / "out")
    assert message.startswith("no prompt to train on has at most 0 tokens with its instruction: for so many the model's context")
    assert "beside policy.max_new_tokens=500.\nLower that (the shortest prompt has " in message


def test_limit_below_every_prompt_is_refused(stage: Any, tmp_path: Path) -> None:
    message = refused(lambda: stage(rated(), policy=lengths(tmp_path, max_prompt_tokens=16)), tmp_path / "out")
    assert message.startswith("no prompt to train on has at most policy.max_prompt_tokens=16 tokens")


def test_evaluation_prompts_are_never_trained_on(stage: Any, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    both = [{"prompt": f"Task {i}", "split": s} for i in range(10) for s in ("train", "test")]
    # Every prompt that rewards are trained on is asked for in evaluation too; 30 others are new.
    rewarded = [{"prompt": r["prompt"].upper(), "split": "test"} for r in rated(answers=1)]
    new = [{"prompt": f"New {i}", "split": "test"} for i in range(30)]
    prompts.write_text("".join(json.dumps(v) + "\n" for v in [*both, *rewarded, *new]))
    output, card = stage(rated(), policy={"prompts": prompts}, evaluation={"limit": 200, "judge": "reward_model"})
    trained = asked(output, "train") | keys(output, "train") | keys(output, "validation") | keys(output, "judge")
    assert not asked(output, "evaluation") & trained
    assert card["prompts"] == {"training": 10, "evaluation": 30 + len(keys(output, "test"))}
    dropped = 10 + 120 - len(keys(output, "test"))
    assert card["dropped"] == {"evaluation prompt that also occurs in training": dropped}
    limited, _ = stage(rated(), "limited", policy={"prompts": prompts}, evaluation={"limit": 12})
    again, _ = stage(rated(), "again", policy={"prompts": prompts}, evaluation={"limit": 12})
    assert len(asked(limited, "evaluation")) == 12
    assert (limited / "prompts.evaluation.jsonl").read_text() == (again / "prompts.evaluation.jsonl").read_text()


def test_where_few_prompts_are_for_tests_those_for_calibration_are_evaluated_on_too(stage: Any) -> None:
    """With 20 prompts a test split has four, and an interval needs eight."""
    output, card = stage(rated(prompts=20), evaluation={"limit": 20, "judge": "reward_model"})
    assert len(keys(output, "test")) == 4 and card["prompts"]["evaluation"] == len(asked(output, "evaluation")) == 8
    assert keys(output, "test") < asked(output, "evaluation") <= keys(output, "test") | keys(output, "validation")
    limited, _ = stage(rated(prompts=20), "limited", evaluation={"limit": 3})
    assert len(asked(limited, "evaluation")) == 3 and asked(limited, "evaluation") <= keys(limited, "test")


def test_prompts_that_state_no_split_go_where_their_rated_rows_are(stage: Any, tmp_path: Path) -> None:
    """A set that states its splits has its test prompts evaluated on, whatever their hashes say."""
    values = rated()
    held = {f"what about number {n}?" for n in range(0, 120, 4)}
    of_file = {"train.jsonl": [], "test.jsonl": []}  # type: dict[str, list[dict[str, Any]]]
    for row in values:
        of_file["test.jsonl" if " ".join(row["prompt"].lower().split()) in held else "train.jsonl"].append(row)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in dict.fromkeys(row["prompt"] for row in values)))
    output, card = stage(of_file, policy={"prompts": prompts}, evaluation={"limit": 200})
    assert asked(output, "evaluation") == keys(output, "test") and len(asked(output, "evaluation")) == 30
    assert not asked(output, "train") & asked(output, "evaluation") and not card["dropped"]


def test_no_prompts_left_to_evaluate_on_is_refused(stage: Any, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "Task", "split": "train"}) + "\n")
    message = refused(lambda: stage(rated(), policy={"prompts": prompts}), tmp_path / "out")
    assert "1 prompts to train on and 0 to evaluate on are left" in message


def test_evaluation_prompts_nearly_trained_on_are_dropped(stage: Any, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    words = " ".join(f"word{n}" for n in range(40))
    asked_for = [
        {"prompt": f"{words} one", "split": "train"},
        {"prompt": f"{words} two", "split": "test"},  # nearly the first
        {"prompt": "Something else entirely", "split": "test"},
    ]
    prompts.write_text("".join(json.dumps(v) + "\n" for v in asked_for))
    output, card = stage(rated(), policy={"prompts": prompts})
    assert card["prompts"] == {"training": 1, "evaluation": 1}
    assert card["dropped"] == {"evaluation prompt nearly the same as one in training": 1}
    assert [v["prompt"][0]["content"] for _, v in read_json_lines(output / "prompts.evaluation.jsonl")] == ["Something else entirely"]
