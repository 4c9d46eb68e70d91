"""Exports: options that do not go together, folders that are taken, models that are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from flows.cli.export import export_model
from moslim_core.export.classifier import export_classifier
from moslim_core.export.gguf_file import export_gguf
from moslim_core.export.merged import export_merged
from moslim_core.export.rewardbench import export_scores
from tests.odd import tiny_models as tiny
from tests.odd.case import Case

NOTHING: dict[str, Any] = {
    "policy": None, "reward": None, "output": None, "dtype": "auto", "base": None, "repo": None, "public": False, "pairs": None,
}  # fmt: skip


def options(to: str, output: bool = True, **given: Any) -> Callable[[Path], object]:
    """What the command is given, with a new folder as its output."""

    def act(folder: Path) -> None:
        export_model(to, **{**NOTHING, **({"output": folder / "output"} if output else {}), **given}, work_dir=folder / "work")

    return act


def taken(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def act(folder: Path) -> None:
        make(folder / "taken")
        export_model("merged", **{**NOTHING, "policy": "p", "output": folder / "taken"}, work_dir=folder / "work")

    return act


def _full(place: Path) -> None:
    place.mkdir()
    (place / "mine.txt").write_text("mine")


def without(name: str) -> Callable[[Path], object]:
    def act(folder: Path) -> None:
        policy = tiny.policy(folder)
        (policy / name).unlink()
        export_merged(policy, folder / "output", tiny.home(), "float32", None, None)

    return act


def a_policy(folder: Path) -> None:
    found = export_merged(tiny.policy(folder), folder / "new" / "deep" / "out", tiny.home(), "auto", None, None)
    assert AutoTokenizer.from_pretrained(found).padding_side == "left"
    assert (found / "model.safetensors").is_file() and not list(found.parent.glob(".*"))


def a_name_with_spaces(folder: Path) -> None:
    found = export_gguf(tiny.policy(folder), folder / "a b ü", tiny.home(), "auto", None, None)
    assert (found / "policy.gguf").stat().st_size > 1000


def no_pairs(folder: Path) -> None:
    (folder / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b"}\n')
    export_scores(tiny.reward(folder), folder / "pairs.jsonl", folder / "output")


CASES: list[Case] = [
    Case("a new folder below new ones", a_policy),
    Case("a name with spaces and an umlaut", a_name_with_spaces),
    Case("a form that there is not", options("onnx", policy="p"), "merged, gguf, ollama, hub, classifier, rewardbench"),
    Case("no model", options("merged"), "Give --policy REF"),
    Case("a reward model as a policy's form", options("gguf", reward="r"), "Give --policy REF"),
    Case("a policy as a classifier", options("classifier", policy="p"), "Give --reward REF"),
    Case("two models", options("merged", policy="p", reward="r"), "nothing else to export"),
    Case("a dtype that there is not", options("merged", policy="p", dtype="int4"), "auto, float32, bfloat16, float16"),
    Case("a repository without hub", options("merged", policy="p", repo="me/it"), "--repo goes with --to hub"),
    Case("public without hub", options("gguf", policy="p", public=True), "--public goes with --to hub"),
    Case("no folder", options("merged", output=False, policy="p"), "--output FOLDER"),
    Case("a policy that is not there", options("merged", policy="/nowhere/at/all"), "there is no such folder"),
    Case("a folder that has files", taken(_full), "not an empty folder"),
    Case("a file in its place", taken(Path.touch), "not an empty folder"),
    Case("a policy without its card", without("moslim_policy.json"), "moslim_policy.json is missing"),
    Case("an export of a policy without its adapter", without("adapter_model.safetensors"), "adapter_model.safetensors is missing"),
    Case("a chat model as a reward model", lambda folder: export_classifier(tiny.chat(folder), folder / "output"), "is no reward model"),
    Case("pairs of one answer", no_pairs, "rejected"),
]
