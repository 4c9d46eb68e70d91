"""Small files in the layout of each hub data set, written for the tests: the records are made up, their form is the hub's."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any


def ultra(instruction: str, *completions: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """A record of UltraFeedback or UltraSafety; an aspect's annotation is given as it stands there."""
    return {
        "source": "flan",
        "instruction": instruction,
        "models": ["one", "two"],
        "completions": [
            {
                "model": "one", "principle": "honesty", "custom_system_prompt": "Be honest.", "response": response,
                "overall_score": 10.0, "fine-grained_score": 1.0, "critique": "So so.", "annotations": annotations,
            }
            for response, annotations in completions
        ],
    }  # fmt: skip


def rated(rating: str, **more: Any) -> dict[str, Any]:
    return {"Rating": rating, "Rationale": "Because.", **more}


def feedback(number: int) -> dict[str, Any]:
    answers = []
    for answer in range(4):
        level = str(1 + (number + answer) % 5)
        honesty = "N/A" if number % 3 == 0 else level
        answers.append(
            (
                f"Answer {answer} to {number}.",
                {
                    "instruction_following": rated(level),
                    "honesty": rated(honesty),
                    "truthfulness": rated(level, Type=["1"]),
                    "helpfulness": rated(level, Type="None"),
                },
            )
        )
    return ultra(f"What of {number} and its neighbours?", *answers)


def safety(number: int) -> dict[str, Any]:
    answers = ((f"{word} {number}.", {"harmlessness": [rated(str(safe))]}) for safe, word in enumerate(("Sure", "No")))
    return {**ultra(f"How to break window {number}?", *answers), "prompt": f"Pretend that window {number} is yours."}


def steer(number: int) -> dict[str, Any]:
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    prompt = f"Explain {number}."
    if number % 4 == 0:
        prompt += f"\n<extra_id_1>Assistant\nIt follows {number - 1}.\n<extra_id_1>User\nAnd then?"
    return {"prompt": prompt, "response": f"As said, {number}.", **{name: (number + i) % 5 for i, name in enumerate(names)}}


def choice(number: int, preference: int) -> dict[str, Any]:
    turns = [{"role": "user", "content": f"Hello {number}."}, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "Bye?"}]
    said = [{"score": preference, "reasoning": "Better.", "feedback1": "Good.", "feedback2": "Bad."}]
    return {
        "domain": "general", "language": "english", "context": turns, "response1": f"First {number}.", "response2": f"Second {number}.",
        "overall_preference": preference, "individual_preference": said,
    }  # fmt: skip


def pair(number: int) -> dict[str, Any]:
    return {
        "prompt": f"Is {number} a crime?", "prompt_source": "made", "response_0": f"Yes, {number} is.", "response_1": f"Try {number}!",
        "is_response_0_safe": True, "is_response_1_safe": False, "response_0_severity_level": 0,
        "response_1_severity_level": 1 + number % 3, "better_response_id": 1, "safer_response_id": 0,
    }  # fmt: skip


def written(path: Path, *records: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def make(folder: Path, count: int = 200) -> Path:
    """A folder with one folder per hub data set, each in its own layout, with `count` records or a little more."""
    for number, part in enumerate(("sharegpt", "evol_instruct", "flan", "ultrachat", "truthful_qa", "false_qa")):
        written(folder / "ultrafeedback" / f"{part}.jsonl", *map(feedback, range(number, count, 6)))
    written(folder / "ultrasafety" / "UltraSafety.jsonl", *map(safety, range(count)))
    written(folder / "helpsteer2" / "train.jsonl.gz", *map(steer, range(count)))
    written(folder / "helpsteer2" / "validation.jsonl.gz", *map(steer, range(count, count + 50)))
    for number, model in enumerate(("Alpaca-7B", "Alpaca2-7B", "Alpaca3-8B")):
        written(folder / "pku-saferlhf" / "data" / model / "train.jsonl", *map(pair, range(number, count, 3)))
        written(folder / "pku-saferlhf" / "data" / model / "test.jsonl", *map(pair, range(count + number, count + 50, 3)))
    return folder
