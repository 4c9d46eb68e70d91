"""Training on rows whose levels can be told: it learns, it masks, and a resumed run ends where an undisturbed one does."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import modeling_utils

from moslim_core.data.rows import Row, write_json_lines
from moslim_core.models.identity import identify
from moslim_core.preferences import PreferenceSchema
from moslim_core.reward import training
from moslim_core.reward.metrics import read_choices, read_metrics
from moslim_core.reward.model import create
from moslim_core.reward.scorer import RewardScorer
from moslim_core.reward.settings import RewardSettings
from moslim_core.reward.tfidf import TfidfClassifier
from moslim_core.settings import ModelSettings
from moslim_core.training.checkpoints import MARKER
from moslim_core.training.progress import Progress
from tests.conftest import naming

SCHEMA = PreferenceSchema.model_validate(
    [
        {"name": "quality", "levels": ["bad", "good"]},
        {"name": "weather", "levels": ["fox", "rain", "snow"]},
    ]
)
FILLER = ["the", "answer", "is", "about", "a", "dog", "and", "water"]


def rows(count: int, seed: int) -> list[Row]:
    """The word decides: good or bad, and fox, rain or snow (labelled in half of the rows)."""
    rng = random.Random(seed)
    made = []
    for i in range(count):
        quality, weather = rng.choice((1, 2, 2)), rng.choice((1, 2, 3))
        words = [*rng.choices(FILLER, k=4), ("bad", "good")[quality - 1], ("fox", "rain", "snow")[weather - 1]]
        rng.shuffle(words)
        labels = {"quality": quality} | ({"weather": weather} if i % 2 else {})
        made.append(Row([{"role": "user", "content": "how is it?"}], " ".join(words), labels, "made"))
    return made


def train(backbone: Path, folder: Path, output: str, epochs: int = 20, **changes: Any) -> Any:
    settings = RewardSettings(
        backbone=str(backbone), epochs=epochs, learning_rate=3e-3, head_learning_rate=1e-2, batch_size=16, max_length=32, **changes
    )
    return training.train(
        settings,
        ModelSettings(device="cpu"),
        SCHEMA,
        data=folder,
        split="train",
        seed=5,
        cache=folder,
        checkpoints=folder / "checkpoints",
        output=folder / output,
        progress=Progress(folder / "progress.jsonl"),
    )


@pytest.fixture(scope="module")
def trained(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("trained")
    for name, count in (("train", 160), ("validation", 40), ("test", 80)):
        write_json_lines(folder / f"{name}.jsonl", (r.to_json() for r in rows(count, seed=count)))
    return folder, train(tiny_encoder, folder, "output")


def test_it_learns(trained: tuple[Path, Any]) -> None:
    folder, metrics = trained
    assert metrics["quality"].labelled == 80
    assert metrics["weather"].labelled == 40
    for head in metrics.values():
        assert head.accuracy > head.majority_accuracy + 0.2
        assert head.kappa > 0.5
    assert read_metrics(folder / "output") == metrics
    card = (folder / "output" / "README.md").read_text()
    assert "- **weather**: 1 = fox, 2 = rain, 3 = snow" in card
    assert f"| quality | 80 | {metrics['quality'].accuracy:.3f} |" in card
    flat = training.dump_metrics(metrics)
    assert flat["head/weather/accuracy"] == metrics["weather"].accuracy
    # One word decides, so the bag of words is hard to beat; all rows are of one source.
    assert metrics["weather"].tfidf is not None and metrics["weather"].tfidf.accuracy > metrics["weather"].majority_accuracy
    assert flat["head/weather/tfidf/auc"] == metrics["weather"].tfidf.auc
    assert flat["head/quality/sources/made/labelled"] == 80
    assert not any("confusion" in key for key in flat)


@pytest.mark.parametrize("head", ["ordinal", "regression", "two_hot"])
def test_every_head_type_learns(trained: tuple[Path, Any], tiny_encoder: Path, tmp_path: Path, head: str) -> None:
    folder, _ = trained
    for name in ("train", "validation", "test"):
        shutil.copyfile(folder / f"{name}.jsonl", tmp_path / f"{name}.jsonl")
    metrics = train(tiny_encoder, tmp_path, "output", epochs=14, head=head)
    assert metrics["quality"].accuracy > metrics["quality"].majority_accuracy + 0.2
    assert metrics["weather"].kappa > 0.5
    assert RewardScorer.load(tmp_path / "output").model.config.head_types() == [head, head]


def test_rows_that_share_no_words_have_no_words_to_tell_them_by() -> None:
    """Too few of them, or of a language without spaces between words: the reward model is trained all the same."""
    pairs = (("什么是雨？", "雨是从云里落下来的水。"), ("猫为什么睡觉？", "它们需要休息。"), ("面包怎么做？", "用面粉和水。"))
    rows = [Row([{"role": "user", "content": asked}], said, {"quality": 1 + n % 2}, "made") for n, (asked, said) in enumerate(pairs)]
    assert TfidfClassifier(SCHEMA, rows)(rows) == TfidfClassifier(SCHEMA, rows[:1])(rows) == {}


def test_measured_is_what_the_saved_model_gives(trained: tuple[Path, Any]) -> None:
    folder, metrics = trained
    scorer = RewardScorer.load(folder / "output")
    # The majority level of training is 2 ("good" twice as often).
    tfidf = TfidfClassifier(SCHEMA, training.load_rows(folder / "train.jsonl"))
    again = training.measure(scorer, training.load_rows(folder / "test.jsonl"), {"quality": 2, "weather": 1}, tfidf, Progress())
    assert again["quality"] == metrics["quality"]
    assert scorer.model.config.scales == [h.scale for h in metrics.values()]
    assert all(s != 1 for s in scorer.model.config.scales)
    assert all(any(shift) for shift in scorer.model.config.shifts)


def test_resumed_run_ends_with_the_same_weights(trained: tuple[Path, Any], tiny_encoder: Path) -> None:
    folder, metrics = trained
    checkpoints = folder / "checkpoints"
    assert sorted(p.name for p in checkpoints.iterdir()) == ["checkpoint-150", "checkpoint-200"]
    # A kill while the last checkpoint was written: it has no marker and does not count.
    (checkpoints / "checkpoint-200" / MARKER).unlink()
    progress = (folder / "progress.jsonl").read_text()
    assert train(tiny_encoder, folder, "resumed") == metrics
    later = (folder / "progress.jsonl").read_text()[len(progress) :]
    assert '"done": 151,' in later
    assert '"done": 150,' not in later
    first, second = (load_file(folder / name / "model.safetensors") for name in ("output", "resumed"))
    assert first.keys() == second.keys()
    assert all((first[k] == second[k]).all() for k in first)


def test_finished_training_is_not_repeated(trained: tuple[Path, Any], tiny_encoder: Path) -> None:
    """A kill after the last step, while measuring."""
    folder, metrics = trained
    shutil.rmtree(folder / "output2", ignore_errors=True)
    before = len((folder / "progress.jsonl").read_text())
    assert train(tiny_encoder, folder, "output2") == metrics
    assert "training the reward model" not in (folder / "progress.jsonl").read_text()[before:]


@pytest.mark.parametrize("tuning", ["lora", "frozen"])
def test_backbone_may_learn_through_an_adapter_or_not_at_all(
    trained: tuple[Path, Any], tiny_encoder: Path, tmp_path: Path, tuning: str
) -> None:
    folder, _ = trained
    for name in ("train", "validation", "test"):
        shutil.copyfile(folder / f"{name}.jsonl", tmp_path / f"{name}.jsonl")
    metrics = train(tiny_encoder, tmp_path, "output", epochs=12, tuning=tuning, lora_rank=4)
    assert metrics["weather"].accuracy > metrics["weather"].majority_accuracy + 0.1
    # What is saved needs no adapter library: the adapter is merged.
    scorer = RewardScorer.load(tmp_path / "output")
    again = training.measure(
        scorer,
        training.load_rows(tmp_path / "test.jsonl"),
        {"quality": 2, "weather": 1},
        TfidfClassifier(SCHEMA, training.load_rows(tmp_path / "train.jsonl")),
        Progress(),
    )
    assert again["weather"].accuracy == metrics["weather"].accuracy
    pretrained, saved = load_file(tiny_encoder / "model.safetensors"), load_file(tmp_path / "output" / "model.safetensors")
    key = "encoder.layer.0.attention.self.query.weight"
    assert bool((pretrained[key] == saved[f"backbones.0.{key}"]).all()) == (tuning == "frozen")
    assert (tmp_path / "output" / training.ADAPTER / "adapter_model.safetensors").is_file() == (tuning == "lora")
    assert naming(tmp_path / "output", tiny_encoder) == []
    of = scorer.model.config.adapter_of
    assert of == (identify(str(tiny_encoder), tmp_path).id.model_dump() if tuning == "lora" else None)


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("backbone", ["tiny_encoder", "tiny_chat"])
def test_activations_that_are_computed_again_change_nothing(
    trained: tuple[Path, Any], request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuning: str, backbone: str
) -> None:
    base, recomputed, again = request.getfixturevalue(backbone), [], modeling_utils.checkpoint
    monkeypatch.setattr(modeling_utils, "checkpoint", lambda *args, **kwargs: (recomputed.append(1), again(*args, **kwargs))[1])
    weights = []
    for checkpointing in (False, True):
        folder = tmp_path / str(checkpointing)
        folder.mkdir()
        for name in ("train", "validation", "test"):
            shutil.copyfile(trained[0] / f"{name}.jsonl", folder / f"{name}.jsonl")
        train(base, folder, "output", epochs=1, tuning=tuning, lora_rank=4, gradient_checkpointing=checkpointing)
        assert bool(recomputed) == checkpointing
        weights.append(load_file(folder / "output" / "model.safetensors"))
    for key, weight in weights[0].items():
        torch.testing.assert_close(weights[1][key], weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_model_per_preference_is_what_training_on_its_rows_alone_gives(
    trained: tuple[Path, Any], tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuning: str
) -> None:
    for name in ("train", "validation", "test"):
        rated = training.load_rows(trained[0] / f"{name}.jsonl")
        write_json_lines(tmp_path / f"{name}.jsonl", (r.to_json() for r in rated))
        about = [r._replace(labels={"weather": r.labels["weather"]}) for r in rated if "weather" in r.labels]
        (tmp_path / "alone").mkdir(exist_ok=True)
        write_json_lines(tmp_path / "alone" / f"{name}.jsonl", (r.to_json() for r in about))
    metrics = train(tiny_encoder, tmp_path, "output", epochs=4, shared=False, tuning=tuning, lora_rank=4)
    assert metrics["quality"].accuracy > metrics["quality"].majority_accuracy + 0.1
    assert '"phase": "training the reward model of weather", "done": 20, "total": 20' in (tmp_path / "progress.jsonl").read_text()
    monkeypatch.setitem(globals(), "SCHEMA", PreferenceSchema((SCHEMA["weather"],)))
    only = train(tiny_encoder, tmp_path / "alone", "output", epochs=4, tuning=tuning, lora_rank=4)
    whole, alone = (load_file(folder / "output" / "model.safetensors") for folder in (tmp_path, tmp_path / "alone"))
    for key, weight in alone.items():
        assert torch.equal(weight, whole[key.replace("backbones.0.", "backbones.1.").replace("heads.0.", "heads.1.")]), key
    assert only["weather"].accuracy == metrics["weather"].accuracy
    assert list(RewardScorer.load(tmp_path / "output")(["how is it?"], ["the rain is good"])) == ["quality", "weather"]
    adapters = tmp_path / "output" / training.ADAPTER
    assert [p.parent.name for p in sorted(adapters.rglob("adapter_model.safetensors"))] == (
        ["quality", "weather"] if tuning == "lora" else []
    )


def test_applicability_head_knows_what_a_row_is_about(tiny_encoder: Path, tmp_path: Path) -> None:
    """Rows with the word rain are labelled for quality, the others for weather."""
    rng = random.Random(0)
    for name, count in (("train", 160), ("validation", 40), ("test", 80)):
        made = []
        for i in range(count):
            words = [*rng.choices(FILLER, k=4), ("rain", "snow")[i % 2]]
            made.append(
                Row([{"role": "user", "content": "how is it?"}], " ".join(words), {("quality", "weather")[i % 2]: 1 + i // 2 % 2}, "made")
            )
        write_json_lines(tmp_path / f"{name}.jsonl", (r.to_json() for r in made))
    metrics = train(tiny_encoder, tmp_path, "output", epochs=10, applicability=True)
    assert metrics["quality"].preference_accuracy > 0.9 and metrics["weather"].preference_accuracy > 0.9
    assert RewardScorer.load(tmp_path / "output").model.applicability is not None


def test_choices_between_two_answers_teach_a_head_that_no_level_does(tiny_encoder: Path, tmp_path: Path) -> None:
    """The answer with the word good was chosen over that with bad; weather is labelled, and does not count for quality."""
    for name, count in (("train", 96), ("validation", 20), ("test", 40)):
        made = []
        for row in rows(count, seed=count):
            weather = {"weather": row.labels["weather"]} if "weather" in row.labels else {}
            better, worse = (row.response.replace(*pair) for pair in (("bad", "good"), ("good", "bad")))
            made.append(row._replace(labels=weather) if weather else row._replace(labels={}, response=better, worse={"quality": worse}))
        write_json_lines(tmp_path / f"{name}.jsonl", (r.to_json() for r in made))
    metrics = train(tiny_encoder, tmp_path, "output", epochs=14)
    assert list(metrics) == ["weather"] and metrics["weather"].kappa > 0.5
    found = read_choices(tmp_path / "output")
    assert read_choices(tmp_path) == {}, "data without choices has none"
    assert list(found) == ["quality"] and found["quality"].pairs == 20 and found["quality"].accuracy.value > 0.9
    assert "Of two answers quality prefers the chosen one in" in (tmp_path / "output" / "README.md").read_text()
    assert '"head/quality/choices/pairs": 20.0' in (tmp_path / "progress.jsonl").read_text()
    scorer = RewardScorer.load(tmp_path / "output")
    good, bad = scorer(["how is it?"] * 2, ["the answer is good", "the answer is bad"])["quality"][:, 1]
    assert good > bad


def test_batch_holds_the_answers_and_then_those_they_were_chosen_over(tiny_encoder: Path) -> None:
    _, tokenizer = create(str(tiny_encoder), SCHEMA, None, 32)
    prompt = [{"role": "user", "content": "how is it?"}]
    made = [
        Row(prompt, "rain", {}, "made", worse={"weather": "a dog and water", "quality": "bad"}),
        Row(prompt, "good", {"quality": 2, "weather": 3}, "made", between={"weather": 2.5}),
        Row(prompt, "snow", {"weather": 1}, "made", worse={"quality": "fox", "other": "unknown"}),
    ]
    dataset = training.RatedDataset(made, SCHEMA, tokenizer, 32, "none")
    batch = training.collate(tokenizer, [dataset[i] for i in range(3)])
    assert batch["levels"].tolist() == [[0, 0], [2, 2.5], [0, 1]]
    assert batch["choices"].tolist() == [[0, 3, 1], [0, 4, 0], [2, 5, 0]]
    texts = tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    assert [text.removesuffix("how is it?").strip() for text in texts] == ["rain", "good", "snow", "a dog and water", "bad", "fox"]
    assert dataset.lengths == [len(tokenizer("a dog and water", "how is it?")["input_ids"]), *dataset.lengths[1:]]


def test_deeper_layers_learn_more_slowly(tiny_encoder: Path) -> None:
    model, _ = create(str(tiny_encoder), SCHEMA, None, 32)
    optimiser = training._optimiser(model, RewardSettings(learning_rate=1.0, layer_decay=0.5, head_learning_rate=7.0))
    rate = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    found = {name: rate[id(p)] for name, p in model.named_parameters()}
    assert found["backbones.0.encoder.layer.1.output.dense.weight"] == 1.0
    assert found["backbones.0.encoder.layer.0.output.dense.weight"] == 0.5
    assert found["backbones.0.embeddings.word_embeddings.weight"] == 0.25
    assert found["heads.0.linear.weight"] == 7.0
