"""The prompts that the policy is trained and evaluated on: none in both, exactly or nearly, and all short enough for the model."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from moslim_core import models
from moslim_core.data import sources
from moslim_core.data.bad_rows import skip
from moslim_core.data.rows import unit_hash, write_json_lines
from moslim_core.data.splits import TEST, TRAIN, Splits
from moslim_core.errors import UserError
from moslim_core.preferences import Message, Targets, condition, longest_instruction, prompt_tokens, require_placement, text_tokens
from moslim_core.preferences.distractors import longest_distraction
from moslim_core.settings import Settings

BATCH_PROMPTS = 500


class Candidate(NamedTuple):
    """A prompt and its number."""

    prompt: list[Message]
    number: int


def write_prompts(
    folder: Path, rated: Iterable[tuple[str, Candidate]], settings: Settings, splits: Splits, cache: Path, dropped: Counter[str]
) -> dict[str, int]:
    """Write prompts.{train,evaluation}.jsonl: those of `policy.prompts`, else of the `rated` (split, prompt); returns their numbers.

    `rated` is iterated over more than once. Evaluation prompts that were trained on, or nearly, are left out and counted in
    `dropped`, as are those that are too long for the settings or for the model. Raises UserError if none is left.
    """
    fit = _Fit(settings, cache, dropped)
    fitting = fit(_chosen(TRAIN, rated, settings, splits), TRAIN)
    training = write_json_lines(folder / "prompts.train.jsonl", ({"prompt": c.prompt} for c in fitting))
    fitting = fit(_untrained(_chosen(TEST, rated, settings, splits), settings, splits, dropped), TEST)
    evaluation = heapq.nsmallest(settings.evaluation.limit, fitting, key=lambda c: unit_hash(splits.keys[c.number], "evaluation"))
    write_json_lines(folder / "prompts.evaluation.jsonl", ({"prompt": c.prompt} for c in evaluation))
    if not fit.seen[TRAIN] or not fit.seen[TEST]:
        where = settings.policy.prompts or settings.data.path or ", ".join(settings.data.source)
        raise UserError(
            f"{where}: {fit.seen[TRAIN]} prompts to train on and {fit.seen[TEST]} to evaluate on are left, both are needed.\n"
            "Give more prompts, or raise data.limit or data.test_fraction."
        )
    if not training or not evaluation:
        limit, side = settings.policy.max_prompt_tokens, TEST if training else TRAIN
        what = f"no prompt to {'evaluate' if training else 'train'} on has at most"
        if fit.shortest[side] > fit.room:
            raise UserError(
                f"{what} {fit.room} tokens with its instruction: for so many the model's context leaves room beside "
                f"policy.max_new_tokens={settings.policy.max_new_tokens}.\n"
                f"Lower that (the shortest prompt has {fit.shortest[side]}), or give shorter prompts."
            )
        raise UserError(
            f"{what} policy.max_prompt_tokens={limit} tokens with its instruction.\n"
            f"Raise it (the shortest prompt has {fit.shortest[side]}), or give shorter prompts."
        )
    return {"training": training, "evaluation": len(evaluation)}


def given(settings: Settings, splits: Splits) -> Iterator[tuple[str, Candidate]]:
    """(train or test, prompt) of `policy.prompts`, which are `splits`' own by now; what the file does not state is cut by hash."""
    assert settings.policy.prompts is not None
    for stated, prompt in sources.prompts(settings.policy.prompts, skip):
        number = splits.prompts.number(prompt)
        group = splits.keys[splits.group[number]]
        held = stated != TRAIN if stated else unit_hash(group, "split") < settings.data.test_fraction
        yield TEST if held else TRAIN, Candidate(prompt, number)


def _chosen(split: str, rated: Iterable[tuple[str, Candidate]], settings: Settings, splits: Splits) -> Iterator[Candidate]:
    """The prompts of one side, each once."""
    seen: set[int] = set()
    for side, candidate in rated if settings.policy.prompts is None else given(settings, splits):
        if side == split and candidate.number not in seen:
            seen.add(candidate.number)
            yield candidate


def _untrained(candidates: Iterable[Candidate], settings: Settings, splits: Splits, dropped: Counter[str]) -> Iterator[Candidate]:
    trained = splits.trained()
    if settings.policy.prompts is not None:
        trained |= {candidate.number for side, candidate in given(settings, splits) if side == TRAIN}
    groups = {int(splits.group[number]) for number in trained}
    for candidate in candidates:
        if candidate.number in trained:
            dropped["evaluation prompt that also occurs in training"] += 1
        elif int(splits.group[candidate.number]) in groups:
            dropped["evaluation prompt nearly the same as one in training"] += 1
        else:
            yield candidate


class _Fit:
    """Lets prompts through that have at most policy.max_prompt_tokens tokens under the longest instruction, and counts."""

    def __init__(self, settings: Settings, cache: Path, dropped: Counter[str]) -> None:
        self.settings, self.dropped = settings, dropped
        self.tokenizer = models.load_chat_tokenizer(settings.model.base, cache)
        require_placement(self.tokenizer, settings.preferences, settings.policy.placement)
        config = models.load_config(settings.model.base, cache)
        # What contradicts the instruction, in training or evaluation, must have room beside it.
        beside = longest_distraction(settings.preferences, self._length)
        self.room = max(0, models.context(config) - settings.policy.max_new_tokens - beside)
        self.instruction = longest_instruction(settings.preferences, self._length)
        self.seen: Counter[str] = Counter()
        self.shortest: dict[str, int] = {}

    def _length(self, text: str) -> int:
        return len(text_tokens(self.tokenizer, [text])[0])

    def __call__(self, candidates: Iterable[Candidate], side: str) -> Iterator[Candidate]:
        policy, schema = self.settings.policy, self.settings.preferences
        waiting = iter(candidates)
        while batch := list(islice(waiting, BATCH_PROMPTS)):
            plain = [condition(c.prompt, Targets(), schema, policy.placement) for c in batch]
            for candidate, tokens in zip(batch, prompt_tokens(self.tokenizer, plain), strict=True):
                length = len(tokens) + self.instruction
                self.seen[side] += 1
                self.shortest[side] = min(self.shortest.get(side, length), length)
                if length > policy.max_prompt_tokens:
                    self.dropped["prompt longer than policy.max_prompt_tokens"] += 1
                elif length > self.room:
                    self.dropped["prompt longer than the model's context less policy.max_new_tokens"] += 1
                else:
                    yield candidate
