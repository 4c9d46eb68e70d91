"""Supervised warm start: rated answers under instructions that ask for the levels they were rated with. (ours)

It is here so that "no preference fine-tuning is needed" can be tested. The adapter is merged into a new base, which is then RL's
starting policy and reference.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from transformers import TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from moslim_core import models
from moslim_core.data.rows import Row, load_rows
from moslim_core.errors import UserError
from moslim_core.policy.conditioning import held_out_combinations
from moslim_core.policy.settings import PolicySettings
from moslim_core.preferences import PreferenceSchema, answered_tokens, condition, is_held_out
from moslim_core.settings import Settings
from moslim_core.training.adapters import adapter_config
from moslim_core.training.checkpoints import last_complete
from moslim_core.training.distributed import is_first, mixed_precision, processes, wait
from moslim_core.training.progress import Progress
from moslim_core.training.saving import MarkComplete


def conditioned_rows(rows: list[Row], schema: PreferenceSchema, policy: PolicySettings, seed: int) -> list[dict[str, Any]]:
    """`prompt` and `completion` conversations of the rows whose labels may be requested.

    Rows below a preference's floor and rows with a held-out pair of levels are left out: a warm start must not teach what training may
    not ask for.
    """
    rng = random.Random(seed)
    held_out = held_out_combinations(schema, policy, seed)
    made = []
    for row in rows:
        allowed = all(level in schema[name].requestable for name, level in row.labels.items())
        if not row.labels or not allowed:
            continue
        targets = schema.targets(row.labels)
        if not is_held_out(targets, held_out):
            prompt = condition(row.prompt, targets, schema, policy.placement, rng)
            made.append({"prompt": prompt, "completion": [{"role": "assistant", "content": row.response}]})
    return made


def supervised(tokenizer: Any, row: dict[str, Any]) -> dict[str, Any]:
    """A row of `prompt` and `completion` as TRL's SFT takes it when it has not to tokenise: only the answer has labels."""
    ids, prompt_length = answered_tokens(tokenizer, row["prompt"], row["completion"][0]["content"])
    return {"input_ids": ids, "labels": [-100] * prompt_length + ids[prompt_length:]}


class Learner(NamedTuple):
    """A trainer of TRL's, its arguments' class, and what makes of a row the token ids that it takes: TRL's own reading of content
    takes special tokens that somebody wrote for real ones. One that is not made with token ids gets them afterwards."""

    trainer: Any = SFTTrainer
    arguments: Any = SFTConfig
    tokenised: Callable[[Any, dict[str, Any]], dict[str, Any]] = supervised
    takes_tokens: bool = True


class _Report(TrainerCallback):
    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress.update("warm start", state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.progress.metrics({"warm_start/loss": float(logs["loss"])}, state.global_step)


def conditioned_sft(settings: Settings, rows: Path, cache: Path, checkpoints: Path, output: Path, progress: Progress) -> None:
    """Train on the rated rows of a file and save the merged model in `output`, once: what is there already stays.

    Raises UserError if no row is labelled with levels that may be requested.
    """
    if output.is_dir():
        return
    data = conditioned_rows(load_rows(rows), settings.preferences, settings.policy, settings.seed)
    if not data:
        raise UserError("policy.warm_start=conditioned_sft, but no rated row has levels that may be asked for.\nSet warm_start=none.")
    fine_tune(settings.model.base, data, settings, cache, checkpoints, output, progress)


def fine_tune(
    base: str,
    data: list[dict[str, Any]],
    settings: Settings,
    cache: Path,
    checkpoints: Path,
    output: Path,
    progress: Progress,
    learner: Learner = Learner(),  # noqa: B008 - a tuple
) -> None:
    """Train an adapter of `base` on conversations that `learner` reads, by the warm start's settings; save it merged.

    Resumes from the last checkpoint in `checkpoints`; `output` is there only when all of it is. Conversations that are too long are left
    out. Raises UserError where none is left.
    """
    policy = settings.policy
    set_seed(settings.seed)
    model, tokenizer = models.load_chat_model(base, cache, settings.model.dtype, settings.model.device)
    longest = policy.max_prompt_tokens + policy.max_new_tokens
    tokenised = [learner.tokenised(tokenizer, row) for row in data]
    if learner.takes_tokens:
        # Cut off, an answer would have no end to learn.
        tokenised = [row for row in tokenised if len(row["input_ids"]) <= longest]
    if not tokenised:
        raise UserError(
            f"no rated answer fits with its prompt into policy.max_prompt_tokens + policy.max_new_tokens = {longest} tokens.\nRaise them."
        )
    dataset = Dataset.from_list(tokenised)
    trainer: Any = learner.trainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=dataset if learner.takes_tokens else Dataset.from_list(data[:1]),
        peft_config=adapter_config(model, policy.lora_rank, policy.lora_layers, "CAUSAL_LM"),
        args=learner.arguments(
            output_dir=str(checkpoints),
            max_steps=max(1, round(policy.sft.epochs * len(dataset) / policy.sft.batch_size / processes())),
            learning_rate=policy.sft.learning_rate,
            per_device_train_batch_size=policy.sft.batch_size,
            max_length=longest,
            gradient_checkpointing=policy.gradient_checkpointing,
            save_steps=50,
            save_total_limit=2,
            logging_steps=10,
            seed=settings.seed,
            report_to=[],
            disable_tqdm=True,
            bf16=mixed_precision() == "bf16",
            fp16=mixed_precision() == "fp16",
            use_cpu=str(model.device) == "cpu",
            ddp_backend="gloo" if str(model.device) == "cpu" and processes() > 1 else None,
        ),
        callbacks=[_Report(progress), MarkComplete()],
    )
    if not learner.takes_tokens:
        trainer.train_dataset = dataset
    last = last_complete(checkpoints)
    trainer.train(resume_from_checkpoint=str(last[0]) if last else None)
    merged = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
    if is_first():
        partial = output.with_name(f"{output.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        merged.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.rename(output)
    wait()
