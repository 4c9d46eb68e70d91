"""The reward stage's work: fit the multi-head classifier, calibrate it on validation, measure it on test."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from moslim_core import models
from moslim_core.data.rows import Row, load_rows, plain_text
from moslim_core.models.identity import ModelId, identify
from moslim_core.preferences import PreferenceSchema
from moslim_core.reward.batches import LengthBatches
from moslim_core.reward.calibration import fit_calibration
from moslim_core.reward.card import model_card
from moslim_core.reward.losses import Choices, choice_loss, masked_loss
from moslim_core.reward.metrics import CHOICES, CHOICES_FILE, HeadMetrics, PairAccuracy, head_metrics, write_metrics
from moslim_core.reward.model import ADAPTER, APPLICABILITY, MultiHeadRewardModel, create, encode, joined
from moslim_core.reward.pairs import Pair, pair_accuracy
from moslim_core.reward.scorer import RewardScorer
from moslim_core.reward.settings import RewardSettings
from moslim_core.reward.tfidf import TfidfClassifier
from moslim_core.reward.weights import Weighting, row_weights
from moslim_core.settings import ModelSettings
from moslim_core.training.adapters import adapter_config, name_base
from moslim_core.training.checkpoints import last_complete
from moslim_core.training.progress import Progress
from moslim_core.training.saving import MarkComplete

# What a batch holds beside the texts.
LABELS = ("levels", "weights", "choices")


class RatedDataset(Dataset):
    """Encoded rows with a vector of `levels` (m,) each, 0 where not labelled and perhaps between two, and one of `weights` (m,).

    Where an answer was chosen over another, the row's texts are both, and `choices` has the number of the preference.
    """

    def __init__(self, rows: list[Row], schema: PreferenceSchema, tokenizer: Any, max_length: int, weighting: Weighting) -> None:
        self.levels = np.array([[row.levels().get(n, 0) for n in schema.names] for row in rows], dtype=np.float32)
        whole = np.array([[row.labels.get(n, 0) for n in schema.names] for row in rows], dtype=np.int64)
        self.weights = row_weights(whole, [row.source for row in rows], weighting)
        self.choices = [[schema.names.index(n) for n in row.worse or () if n in schema.names] for row in rows]
        prompts = [row.prompt for row in rows]
        answers = [row.response for row in rows]
        self.texts = [[number] for number in range(len(rows))]
        for texts, row, choices in zip(self.texts, rows, self.choices, strict=True):
            for number in choices:
                texts.append(len(answers))
                prompts.append(row.prompt)
                answers.append((row.worse or {})[schema.names[number]])
        self.encoded = encode(tokenizer, [plain_text(prompt) for prompt in prompts], answers, max_length)
        self.lengths = [max(len(self.encoded["input_ids"][text]) for text in texts) for texts in self.texts]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        texts = [{key: values[text] for key, values in self.encoded.items()} for text in self.texts[index]]
        return {"texts": texts, "levels": self.levels[index], "weights": self.weights[index], "choices": self.choices[index]}


def collate(tokenizer: Any, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch of n rows: their answers, then those that were chosen over; `choices` (p, 3) has better, worse and preference each."""
    texts = [item["texts"][0] for item in items]
    choices = []
    for row, item in enumerate(items):
        for preference, worse in zip(item["choices"], item["texts"][1:], strict=True):
            choices.append((row, len(texts), preference))
            texts.append(worse)
    return {
        **tokenizer.pad(texts, return_tensors="pt"),
        **{key: torch.tensor(np.stack([item[key] for item in items])) for key in ("levels", "weights")},
        "choices": torch.tensor(choices, dtype=torch.long).reshape(-1, 3),
    }


class MultiHeadTrainer(Trainer):
    """transformers.Trainer with the masked multi-head loss."""

    def __init__(self, *args: Any, ranking_weight: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ranking_weight = ranking_weight
        model = self.accelerator.unwrap_model(self.model)
        self.heads = model.head_of
        self.sign = [1.0 if p.direction == "higher_is_better" else -1.0 for p in model.config.schema().preferences]
        rows = cast(RatedDataset, self.train_dataset)
        self.coverage = dict(zip(self.heads, (rows.levels > 0).mean(axis=0).tolist(), strict=True))
        self.chosen = [sum(choices.count(number) for choices in rows.choices) / len(rows) for number in range(len(self.heads))]

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        levels, weights = ({name: inputs[key][:, i] for i, name in enumerate(self.heads)} for key in ("levels", "weights"))
        outputs = model(**{key: value for key, value in inputs.items() if key not in LABELS})
        rows = len(inputs["levels"])
        rated = {name: values[:rows] for name, values in outputs.items()}
        loss = masked_loss(self.heads, {name: rated[name] for name in self.heads}, levels, weights, self.coverage, self.ranking_weight)
        better, worse, preference = inputs["choices"].unbind(dim=1)
        choices = Choices(better, worse, preference, self.sign, self.chosen)
        loss = loss + self.ranking_weight * choice_loss(self.heads, outputs, choices, rows)
        if APPLICABILITY in outputs:
            about = (inputs["levels"] > 0).float()
            about[better, preference] = 1.0
            loss = loss + F.binary_cross_entropy_with_logits(rated[APPLICABILITY], about)
        if not torch.isfinite(loss):
            raise RuntimeError(f"the reward loss is not finite at step {self.state.global_step}: lower reward.learning_rate")
        return (loss, outputs) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthBatches:
        dataset = cast(RatedDataset, train_dataset or self.train_dataset)
        return LengthBatches(dataset.lengths, self.args.train_batch_size, self.args.seed)


class _Report(TrainerCallback):
    def __init__(self, progress: Progress, preference: str | None) -> None:
        self.progress, self.preference = progress, preference

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        what = f"the reward model of {self.preference}" if self.preference else "the reward model"
        self.progress.update(f"training {what}", state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        figures = {k: v for k, v in (logs or {}).items() if k in ("loss", "grad_norm", "learning_rate")}
        if figures:
            of = f"{self.preference}/" if self.preference else ""
            self.progress.metrics({of + name: value for name, value in figures.items()}, state.global_step)


def train(
    settings: RewardSettings,
    model_settings: ModelSettings,
    schema: PreferenceSchema,
    data: Path,
    split: str,
    seed: int,
    cache: Path,
    checkpoints: Path,
    output: Path,
    progress: Progress,
) -> dict[str, HeadMetrics]:
    """Train on `data/{split}.jsonl`, calibrate on validation, measure on test; save model, tokenizer and metrics in `output`.

    Resumes from the last checkpoint in `checkpoints`. Returns the metrics on the test split.
    """
    rows = load_rows(data / f"{split}.jsonl")
    backbone = identify(settings.backbone, cache).id
    if settings.shared:
        model, tokenizer = _fit(settings, model_settings, schema, rows, seed, cache, checkpoints, progress)
    else:
        alone = [PreferenceSchema((p,)) for p in schema.preferences]
        fitted = [
            _fit(settings, model_settings, one, _labelled(rows, one), seed, cache, checkpoints / one.names[0], progress) for one in alone
        ]
        model, tokenizer = joined([model for model, _ in fitted]), fitted[0][1]
    output.mkdir(parents=True, exist_ok=True)
    if settings.tuning == "lora":
        _merge(model, output / ADAPTER, backbone)
        model.config.adapter_of = backbone.model_dump() if settings.adapter_of else None
    scorer = RewardScorer(model, tokenizer)
    _calibrate(scorer, load_rows(data / "validation.jsonl"))
    levels = {name: Counter(row.labels[name] for row in rows if name in row.labels) for name in schema.names}
    majority = {name: counts.most_common(1)[0][0] for name, counts in levels.items() if counts}
    held_out = load_rows(data / "test.jsonl")
    metrics = measure(scorer, held_out, majority, TfidfClassifier(schema, rows), progress)
    choices = measure_choices(scorer, held_out, progress)
    scorer.model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    write_metrics(output, metrics)
    if choices:
        (output / CHOICES_FILE).write_bytes(CHOICES.dump_json(choices, indent=1))
    (output / "README.md").write_text(model_card(settings, backbone, schema, metrics, choices), encoding="utf-8")
    return metrics


def _labelled(rows: list[Row], schema: PreferenceSchema) -> list[Row]:
    return [row for row in rows if any(name in row.labels or name in (row.worse or ()) for name in schema.names)]


def _fit(
    settings: RewardSettings,
    model_settings: ModelSettings,
    schema: PreferenceSchema,
    rows: list[Row],
    seed: int,
    cache: Path,
    checkpoints: Path,
    progress: Progress,
) -> tuple[MultiHeadRewardModel, Any]:
    """(model with a head per preference of the schema and one backbone, its tokenizer), trained on rows; an adapter is still on."""
    set_seed(seed)
    device = models.pick_device(model_settings.device)
    source = models.resolve(settings.backbone, cache)
    model, tokenizer = create(source, schema, settings.layers, settings.max_length, settings.head, settings.applicability)
    _tune(model, settings)
    # In passes this few dropout keeps no head from overfitting, and on a CPU it costs a third of the time.
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    dataset = RatedDataset(rows, schema, tokenizer, model.config.max_tokens, settings.class_weights)
    steps = max(1, round(settings.epochs * len(dataset) / settings.batch_size))
    trainer = MultiHeadTrainer(
        model=model,
        ranking_weight=settings.ranking_weight,
        args=TrainingArguments(
            output_dir=str(checkpoints),
            max_steps=steps,
            per_device_train_batch_size=settings.batch_size,
            warmup_steps=max(1, steps // 10),
            logging_steps=max(1, steps // 50),
            save_steps=max(10, steps // 4),
            save_total_limit=2,
            seed=seed,
            remove_unused_columns=False,
            report_to=[],
            disable_tqdm=True,
            use_cpu=device == "cpu",
            dataloader_pin_memory=device == "cuda",
            bf16=models.pick_dtype(model_settings.dtype, device, cache) == torch.bfloat16,
        ),
        train_dataset=dataset,
        data_collator=partial(collate, tokenizer),
        callbacks=[_Report(progress, None if settings.shared else schema.names[0]), MarkComplete()],
        optimizers=(_optimiser(model, settings), None),
    )
    last = last_complete(checkpoints)
    trainer.train(resume_from_checkpoint=str(last[0]) if last else None)
    # Scored as it will be when loaded: without the mixed precision of training.
    return trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False), tokenizer


def measure(
    scorer: RewardScorer, rows: list[Row], majority: dict[str, int], tfidf: TfidfClassifier, progress: Progress
) -> dict[str, HeadMetrics]:
    """Metrics per head over the labelled rows, as a whole and per source. Heads without one are left out."""
    outputs = scorer.outputs(
        [plain_text(r.prompt) for r in rows],
        [r.response for r in rows],
        on_batch=lambda done: progress.update("measuring the reward model", done, len(rows)),
    )
    probabilities = scorer.probabilities(outputs)
    simple = tfidf(rows)
    metrics = {}
    for index, name in enumerate(scorer.schema.names):
        labelled = [i for i, row in enumerate(rows) if name in row.labels and name in majority]
        if labelled:
            levels = np.array([rows[i].labels[name] for i in labelled])
            metrics[name] = head_metrics(
                probabilities[name][labelled],
                levels,
                majority[name],
                scorer.model.config.scales[index],
                sources=[rows[i].source for i in labelled],
                tfidf=simple[name][labelled] if name in simple else None,
            )
            if APPLICABILITY in outputs:
                about = np.array([name in row.labels or name in (row.worse or ()) for row in rows])
                metrics[name].preference_accuracy = float(((outputs[APPLICABILITY][:, index] > 0) == about).mean())
    return metrics


def measure_choices(scorer: RewardScorer, rows: list[Row], progress: Progress) -> dict[str, PairAccuracy]:
    """How often each head prefers the answer that was chosen over another, on the rows that are choices about it; told as metrics."""
    pairs = [Pair(plain_text(row.prompt), row.response, worse, name) for row in rows for name, worse in (row.worse or {}).items()]
    accuracies = pair_accuracy(scorer, pairs) if pairs else {}
    for name, accuracy in accuracies.items():
        figures = {"accuracy": accuracy.accuracy.value, "pairs": accuracy.pairs, "ties": accuracy.ties}
        progress.metrics({f"head/{name}/choices/{figure}": float(value) for figure, value in figures.items() if value is not None}, step=0)
    return accuracies


def _tune(model: MultiHeadRewardModel, settings: RewardSettings) -> None:
    """Leave of the backbone's parameters those to learn: all, an adapter's, or none; its activations may be computed again."""
    if settings.tuning == "lora":
        from peft import get_peft_model

        backbone = model.backbones[0]
        model.backbones[0] = get_peft_model(backbone, adapter_config(backbone, settings.lora_rank, None, "FEATURE_EXTRACTION"))
    elif settings.tuning == "frozen":
        model.backbones.requires_grad_(False)
    if settings.gradient_checkpointing:
        cast(Any, model.backbones[0]).gradient_checkpointing_enable({"use_reentrant": False})


def _merge(model: MultiHeadRewardModel, folder: Path, backbone: ModelId) -> None:
    """Save the adapter of `backbone` in `folder`, or one for each preference below it, and put it into the weights."""
    for index, name in enumerate(model.names[: len(model.backbones)]):
        adapted: Any = model.backbones[index]
        own = folder if model.config.shared else folder / name
        adapted.save_pretrained(own)
        name_base(own, backbone.name)
        model.backbones[index] = adapted.merge_and_unload()


def _optimiser(model: MultiHeadRewardModel, settings: RewardSettings) -> torch.optim.Optimizer:
    """AdamW; a layer of the backbone learns `layer_decay` times as fast as the one after it, the embeddings slowest (as ELECTRA's)."""
    groups: dict[float, list[torch.nn.Parameter]] = defaultdict(list)
    for backbone in model.backbones:
        stack, layers = models.layer_stack(backbone)
        depth = 0
        # In the order in which they act: what comes before the first layer (embeddings), the layers, what comes after the last (a norm).
        for name, value in backbone.named_parameters():
            if name.startswith(f"{stack}."):
                depth = int(name[len(stack) + 1 :].split(".")[0]) + 1
            if value.requires_grad:
                groups[settings.learning_rate * settings.layer_decay ** (len(layers) - depth)].append(value)
    heads = [value for name, value in model.named_parameters() if not name.startswith("backbones.")]
    return torch.optim.AdamW(
        [*({"params": values, "lr": rate} for rate, values in groups.items()), {"params": heads, "lr": settings.head_learning_rate}],
        weight_decay=0.01,
        fused=True,
    )


def _calibrate(scorer: RewardScorer, rows: list[Row]) -> None:
    outputs = scorer.outputs([plain_text(r.prompt) for r in rows], [r.response for r in rows])
    fitted = []
    for name, head in scorer.model.head_of.items():
        labelled = [i for i, row in enumerate(rows) if name in row.labels]
        levels = np.array([rows[i].labels[name] for i in labelled], dtype=int)
        fitted.append(fit_calibration(head, outputs[name][labelled], levels))
    scorer.model.config.scales, scorer.model.config.shifts = map(list, zip(*fitted, strict=True))


def dump_metrics(metrics: dict[str, HeadMetrics]) -> dict[str, float]:
    """Flat numbers for a tracker: head/<preference>/<figure>, .../tfidf/<figure>, .../sources/<source>/<figure>."""
    flat: dict[str, float] = {}
    for name, head in metrics.items():
        _flatten(head.model_dump(exclude={"confusion", "reliability"}), f"head/{name}", flat)
    return flat


def _flatten(values: dict[str, Any], prefix: str, flat: dict[str, float]) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            _flatten(value, f"{prefix}/{key}", flat)
        elif value is not None:
            flat[f"{prefix}/{key}"] = float(value)
