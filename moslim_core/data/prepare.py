"""The label stage's work: rated rows -> splits by prompt hash, prompts for the policy and for evaluation, a data card."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from moslim_core import models
from moslim_core.data import sources
from moslim_core.data.rows import Row, prompt_key, unit_hash, write_json_lines
from moslim_core.errors import UserError
from moslim_core.preferences import Message, PreferenceSchema, Targets, condition, longest_instruction
from moslim_core.progress import Progress
from moslim_core.settings import Settings

Rated = tuple[str | None, Row, str]
# A prompt and the file and row where it stands.
Placed = tuple[list[Message], str]

PROGRESS_ROWS = 1000
TRAIN, VALIDATION, TEST, JUDGE = "train", "validation", "test", "judge"


def prepare(settings: Settings, output: Path, cache: Path, progress: Progress) -> dict[str, Any]:
    """Write {train,validation,test[,judge]}.jsonl, prompts.{train,evaluation}.jsonl and data_card.json into `output`.

    `judge` is half of the training prompts, kept for an independent judge when evaluation.judge=reward_model. Returns the
    data card. Raises UserError on bad input before anything is written.
    """
    schema = settings.preferences
    splits: dict[str, list[Row]] = defaultdict(list)
    dropped: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    rated = _limited(sources.rated_rows(settings.data, schema), settings.data.limit)
    stated_splits = {stated for stated, _, _ in rated}
    places = {prompt_key(row.prompt): place for _, row, place in reversed(rated)}
    owner: dict[str, str] = {}
    # Stated test and validation rows come first: a prompt that stands in two files is kept out of training.
    for number, (stated, row, _) in enumerate(sorted(rated, key=lambda item: item[0] in (None, TRAIN)), start=1):
        key = prompt_key(row.prompt)
        split = _split(stated, key, settings, stated_splits)
        if not row.response.strip():
            dropped["empty answer"] += 1
        elif not row.labels:
            dropped["no label"] += 1
        elif owner.setdefault(key, split) != split:
            dropped["prompt that also stands in another split"] += 1
        elif (key, row.response) in seen:
            dropped["duplicate"] += 1
        else:
            seen.add((key, row.response))
            splits[split].append(row)
        if number % PROGRESS_ROWS == 0 or number == len(rated):
            progress.update("reading rated answers", number, len(rated))
    _check_labels(splits, schema, settings)
    training, evaluation = _prompts(settings, splits, places, dropped)
    training, evaluation = _fitting(settings, training, evaluation, cache, dropped)
    evaluation = evaluation[: settings.evaluation.limit]
    card = _card(splits, schema, dropped, len(training), len(evaluation))
    output.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        write_json_lines(output / f"{name}.jsonl", (r.to_json() for r in rows))
    for name, chosen in (("train", training), ("evaluation", evaluation)):
        write_json_lines(output / f"prompts.{name}.jsonl", ({"prompt": p} for p, _ in chosen))
    (output / "data_card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False), encoding="utf-8")
    return card


def _limited(rows: Iterable[Rated], limit: int | None) -> list[Rated]:
    """At most `limit` rows, those with the smallest hash: a fair draw that does not depend on the file's order."""
    every = list(rows)
    if limit is None or len(every) <= limit:
        return every
    chosen = sorted(range(len(every)), key=lambda i: unit_hash(prompt_key(every[i][1].prompt) + every[i][1].response, "limit"))
    return [every[i] for i in sorted(chosen[:limit])]


def _split(stated: str | None, key: str, settings: Settings, stated_splits: set[str | None]) -> str:
    """A split that the source states is kept; those that it does not state are cut from its training rows by prompt hash."""
    if stated not in (None, TRAIN):
        return str(stated)
    place, data = unit_hash(key, "split"), settings.data
    if TEST not in stated_splits and place < data.test_fraction:
        return TEST
    if VALIDATION not in stated_splits and 1 - place <= data.validation_fraction:
        return VALIDATION
    if settings.evaluation.judge == "reward_model" and unit_hash(key, "judge") < 0.5:
        return JUDGE
    return TRAIN


def _check_labels(splits: dict[str, list[Row]], schema: PreferenceSchema, settings: Settings) -> None:
    source = settings.data.path or settings.data.source
    needed = [TRAIN, VALIDATION, TEST] + ([JUDGE] if settings.evaluation.judge == "reward_model" else [])
    for split in needed:
        for name in schema.names:
            if not any(name in row.labels for row in splits[split]):
                total = sum(name in row.labels for rows in splits.values() for row in rows)
                what = "every label is null" if total == 0 else f"no labelled row in the {split} split"
                raise UserError(
                    f"{source}: {what} for preference {name!r}.\n"
                    f"Give rows with {name} levels (more rows if data.limit is set), or leave {name} out of the preferences."
                )


def _prompts(
    settings: Settings, splits: dict[str, list[Row]], places: dict[str, str], dropped: Counter[str]
) -> tuple[list[Placed], list[Placed]]:
    """(training, evaluation) prompts without repeats, the latter in a fair order; none of them is trained on."""
    training: dict[str, Placed] = {}
    evaluation: dict[str, Placed] = {}
    rated = {prompt_key(r.prompt) for name in (TRAIN, VALIDATION, JUDGE) for r in splits.get(name, ())}
    if settings.policy.prompts is None:
        for found, split in ((training, TRAIN), (evaluation, TEST)):
            for row in splits[split]:
                key = prompt_key(row.prompt)
                found.setdefault(key, (row.prompt, places[key]))
    else:
        for stated, prompt, place in sources.prompts(settings.policy.prompts):
            key = prompt_key(prompt)
            held = stated not in (None, "train") or (stated is None and unit_hash(key, "split") < settings.data.test_fraction)
            (evaluation if held else training).setdefault(key, (prompt, place))
    for key in list(evaluation):
        if key in rated or key in training:
            del evaluation[key]
            dropped["evaluation prompt that also occurs in training"] += 1
    if not training or not evaluation:
        where = settings.policy.prompts or settings.data.path or settings.data.source
        raise UserError(
            f"{where}: {len(training)} prompts to train on and {len(evaluation)} to evaluate on are left, both are needed.\n"
            "Give more prompts, or raise data.limit or data.test_fraction."
        )
    return list(training.values()), [evaluation[k] for k in sorted(evaluation, key=lambda k: unit_hash(k, "evaluation"))]


def _fitting(
    settings: Settings, training: list[Placed], evaluation: list[Placed], cache: Path, dropped: Counter[str]
) -> tuple[list[Placed], list[Placed]]:
    """The prompts of at most policy.max_prompt_tokens under the longest instruction; one beyond the model's context is an error."""
    policy, schema = settings.policy, settings.preferences
    tokenizer = models.load_chat_tokenizer(settings.model.base, cache)
    config = models.load_config(settings.model.base, cache)
    room = (getattr(config, "max_position_embeddings", None) or 10**9) - policy.max_new_tokens
    instruction = longest_instruction(schema, lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]))
    shortest = room
    kept: list[list[Placed]] = []
    for found in (training, evaluation):
        plain = [
            tokenizer.apply_chat_template(condition(p, Targets(), schema, policy.placement), tokenize=False, add_generation_prompt=True)
            for p, _ in found
        ]
        lengths = [len(ids) + instruction for ids in tokenizer(plain, add_special_tokens=False)["input_ids"]]
        for length, (_, place) in zip(lengths, found, strict=True):
            if length > room:
                raise UserError(
                    f"{place}: the prompt has {length} tokens with its instruction, the model's context leaves room for {room}.\n"
                    "Shorten or drop it."
                )
        kept.append([prompt for length, prompt in zip(lengths, found, strict=True) if length <= policy.max_prompt_tokens])
        dropped["prompt longer than policy.max_prompt_tokens"] += len(found) - len(kept[-1])
        shortest = min([shortest, *lengths])
    if not all(kept):
        raise UserError(
            f"no prompt to {'evaluate' if kept[0] else 'train'} on has at most policy.max_prompt_tokens={policy.max_prompt_tokens} tokens "
            f"with its instruction.\nRaise it (the shortest prompt has {shortest}), or give shorter prompts."
        )
    return kept[0], kept[1]


def _card(splits: dict[str, list[Row]], schema: PreferenceSchema, dropped: Counter[str], training: int, evaluation: int) -> dict[str, Any]:
    rows = [row for chosen in splits.values() for row in chosen]
    words = np.array([len(r.response.split()) for r in rows])
    return {
        "rows": {name: len(chosen) for name, chosen in splits.items()},
        "prompts": {"training": training, "evaluation": evaluation},
        "sources": dict(Counter(r.source for r in rows)),
        "labels": {
            p.name: {
                "labelled": sum(p.name in r.labels for r in rows),
                "levels": {str(v): sum(r.labels.get(p.name) == v for r in rows) for v in range(1, p.k + 1)},
            }
            for p in schema.preferences
        },
        "dropped": {reason: count for reason, count in dropped.items() if count},
        "answer_words": {str(q): float(np.percentile(words, q)) for q in (5, 25, 50, 75, 95)},
    }
