"""Odd inputs that testers found, one of each kind that was mended for them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

from flows import profile as profiles
from flows.cli.scoring import score_rows
from moslim_core import models
from moslim_core.data import sources
from moslim_core.models import load_chat_model
from moslim_core.models.identity import ModelId, content_digest, identify
from moslim_core.policy.artifact import PolicyCard
from moslim_core.preferences import PreferenceSchema
from tasks.ledger.ledger import DATABASE_FILE, EXPERIMENT, Ledger
from tasks.ledger.of_work_dir import folder_of
from tasks.ledger.references import path_digest
from tasks.surroundings import network
from tests.odd import tiny_models as tiny
from tests.odd.case import Case

SCHEMA = PreferenceSchema.model_validate(tiny.PREFERENCES)


def profile(text: str) -> Any:
    def act(folder: Path) -> object:
        (folder / "mine.yaml").write_text(text)
        return profiles.load(str(folder / "mine.yaml"))

    return act


def set_to(text: str) -> Any:
    return lambda folder: profiles.load("demo", [text])


def chat_changed(change: Any) -> Any:
    def act(folder: Path) -> object:
        change(made := tiny.chat(folder))
        return load_chat_model(str(made), folder, "float32", "cpu")

    return act


def an_encoder(folder: Path) -> object:
    from transformers import BertConfig, BertLMHeadModel

    made = tiny.chat(folder)
    config = BertConfig(vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    BertLMHeadModel(config).save_pretrained(made)
    return load_chat_model(str(made), folder, "float32", "cpu")


def marks_without_embeddings(made: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(made)
    tokenizer.add_tokens(["<|begin|>"], special_tokens=True)
    tokenizer.chat_template = tiny.TEMPLATE.replace("<|im_start|>", "<|begin|>")
    tokenizer.save_pretrained(made)


def shards_below(folder: Path) -> None:
    made = tiny.chat(folder)
    (made / "shards").mkdir()
    shutil.move(made / "model.safetensors", made / "shards" / "one.safetensors")
    before = content_digest(made, folder)
    with (made / "shards" / "one.safetensors").open("ab") as file:
        file.write(b" ")
    assert content_digest(made, folder) != before


def linked_data(folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "real" / "train.csv").write_text("a")
    (folder / "data").mkdir()
    (folder / "data" / "csv").symlink_to(folder / "real")
    # A link to itself must not lead round and round.
    (folder / "real" / "again").symlink_to(folder / "real")
    before = path_digest(folder / "data")
    (folder / "real" / "train.csv").write_text("b")
    assert path_digest(folder / "data") != before


def a_folder_with_a_packaged_name(folder: Path) -> None:
    made = Path(shutil.copytree(tiny.chat(folder), folder / "smollm2-135m"))
    assert identify(str(made), folder).id.is_folder
    assert not ModelId(name="smollm2-135m", digest=models.PACKAGED["smollm2-135m"].sha256).is_folder


def proxy_exceptions(entries: str) -> Any:
    def act(folder: Path) -> object:
        with patch.dict(os.environ, {"NO_PROXY": entries, "no_proxy": entries}):
            return network.reach_loopback()

    return act


def store(content: bytes) -> Any:
    def act(folder: Path) -> object:
        (folder / "mlflow").mkdir()
        (folder / "mlflow" / DATABASE_FILE).write_bytes(content)
        return Ledger(folder)

    return act


def deleted_experiment(folder: Path) -> None:
    first = Ledger(folder)
    first.client.delete_experiment(first.experiment_id)
    again = Ledger(folder)
    assert again.client.get_experiment_by_name(EXPERIMENT).lifecycle_stage == "active"


def prompts_of(*splits: object) -> Any:
    def act(folder: Path) -> object:
        (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": "Rain?", "split": split}) + "\n" for split in splits))
        return [split for split, _ in sources.prompts(folder / "prompts.jsonl")]

    return act


def known_splits(folder: Path) -> None:
    assert prompts_of("train", "val", "dev", "test", None, "")(folder) == ["train", "validation", "validation", "test", None, None]


def negative_length(folder: Path) -> object:
    made = tiny.policy(folder)
    tiny.change_json(made / "moslim_policy.json", lambda card: card.update(max_new_tokens=-4))
    return PolicyCard.load(made)


CASES = [
    Case("a section that stands twice in a profile", profile("policy: {steps: 7}\npolicy: {epochs: 2}\n"), "policy stands twice"),
    Case("a name twice in a mapping that is set", set_to("mapping.weights={warmth: 1, warmth: 9}"), "mapping.weights"),
    Case("a name twice in JSON that is set", set_to('mapping.weights={"warmth": 1, "warmth": 9}'), "mapping.weights"),
    Case("a seed of 33 bits", set_to(f"seed={2**32}"), "seed"),
    Case("a seed below zero", set_to("reward.seed=-1"), "reward.seed"),
    Case("a preference that is asked for twice", lambda folder: SCHEMA.parse_targets("warmth=1,warmth=3"), "warmth is asked for twice"),
    Case("a superscript as a level", lambda folder: SCHEMA.parse_targets("warmth=\u00b2"), "can't read"),
    Case("a level of 5000 digits", lambda folder: SCHEMA.parse_targets("warmth=" + "9" * 5000), "can't read"),
    Case("a profile's name of 300 letters", lambda folder: profiles.load("x" * 300), "no such profile"),
    Case("a base's name of 300 letters", lambda folder: models.resolve("/" + "x" * 300, folder), "was not found"),
    Case("a policy in the home of nobody", lambda folder: folder_of("~nobodyxx/p", folder), "there is no such folder"),
    Case("no name of a policy", lambda folder: folder_of("", folder), "there is no such folder"),
    Case("a folder to write scores to", lambda folder: score_rows(tiny.reward(folder), str(_row(folder)), str(folder), ""), "is a folder"),
    Case("weights in a folder below", shards_below),
    Case("data in a folder that a link leads to", linked_data),
    Case("a model's folder with a packaged name", a_folder_with_a_packaged_name),
    Case("prompts that state their splits", known_splits),
    Case("a split with a capital letter", prompts_of("train", "Train"), "row 2: split='Train' is none"),
    Case("a list as a split", prompts_of(["train"]), "row 1: split=\"['train']\" is none"),
    Case("an encoder as chat model", an_encoder, "is an encoder"),
    Case(
        "an adapter beside weights",
        chat_changed(lambda made: (made / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))),
        "holds an adapter beside its weights",
    ),
    Case("marks for which there are no embeddings", chat_changed(marks_without_embeddings), "the model has embeddings for"),
    Case(
        "a generation config that ends with a word",
        chat_changed(lambda made: (made / "generation_config.json").write_text(json.dumps({"eos_token_id": "x"}))),
        "eos_token_id='x' is no token",
    ),
    Case("a card that lets answers have less than no tokens", negative_length, "max_new_tokens"),
    Case("brackets around an address without proxy", proxy_exceptions("[::1]")),
    Case("a port without a number without proxy", proxy_exceptions("corp:abc"), "NO_PROXY has an entry that no client can read"),
    Case("a database that is none", store(b"version https://git-lfs.github.com/spec/v1\n" * 9), "can't be opened"),
    Case("an experiment that was deleted in the page", deleted_experiment),
]  # fmt: skip


def _row(folder: Path) -> Path:
    (folder / "rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    return folder / "rows.jsonl"
