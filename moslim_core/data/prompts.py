"""The prompts that the policy is trained and evaluated on: none in both, exactly or nearly, and all short enough for the model."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from moslim_core import models
from moslim_core.data import sources
from moslim_core.data.bad_rows import skip
from moslim_core.data.rows import unit_hash, write_json_lines
from moslim_core.data.splits import TEST, TRAIN, VALIDATION, Splits
from moslim_core.errors import UserError
from moslim_core.preferences import (
    Message,
    Placement,
    PreferenceSchema,
    Targets,
    condition,
    longest_instruction,
    prompt_tokens,
    require_placement,
    text_tokens,
)
from moslim_core.preferences.distractors import longest_distraction
from moslim_core.settings import Settings
from moslim_core.statistics.bootstrap import MIN_PROMPTS

BATCH_PROMPTS = 500


class Candidate(NamedTuple):
    """A prompt and its number."""

    prompt: list[Message]
    number: int


def write_prompts(
    folder: Path, rated: Iterable[tuple[str, Candidate]], settings: Settings, splits: Splits, cache: Path, dropped: Counter[str]
) -> dict[str, int]:
    """Write prompts.{train,evaluation}.jsonl: those of `policy.prompts`, else of the `rated` (split, prompt); returns their numbers.

    `rated` is iterated over more than once. Where the test split has too few prompts for an interval, the validation split's join those
    to evaluate on. Evaluation prompts that were trained on, or nearly, are left out and counted in
    `dropped`, as are those that are too long for the settings or for the model. Raises UserError if none is left.
    """
    policy = settings.policy
    tokenizer = models.load_chat_tokenizer(settings.model.base, cache)
    require_placement(tokenizer, settings.preferences, policy.placement)
    context = models.context(models.load_config(settings.model.base, cache))
    fit = _Fit(tokenizer, settings.preferences, policy.placement, context - policy.max_new_tokens, policy.max_prompt_tokens, dropped)
    own = _Given(policy.prompts, splits) if policy.prompts else None
    candidates = rated if own is None else own
    fitting = fit(_side(TRAIN, candidates), TRAIN)
    training = write_json_lines(folder / "prompts.train.jsonl", ({"prompt": c.prompt} for c in fitting))
    trained = splits.trained() | {c.number for c in _side(TRAIN, own or ())}
    fitting = fit(_untrained(_side(TEST, candidates), trained, splits, dropped), TEST)
    evaluation = heapq.nsmallest(settings.evaluation.limit, fitting, key=lambda c: unit_hash(splits.keys[c.number], "evaluation"))
    few = min(settings.evaluation.limit, MIN_PROMPTS)
    if evaluation and len(evaluation) < few and own is None:
        # So few have no interval. Prompts whose rows calibrated the reward models are as new to the policy.
        more = fit(_side(VALIDATION, candidates), TEST)
        evaluation += heapq.nsmallest(few - len(evaluation), more, key=lambda c: unit_hash(splits.keys[c.number], "evaluation"))
    write_json_lines(folder / "prompts.evaluation.jsonl", ({"prompt": c.prompt} for c in evaluation))
    if not fit.seen[TRAIN] or not fit.seen[TEST]:
        where = policy.prompts or settings.data.where
        raise UserError(
            f"{where}: {fit.seen[TRAIN]} prompts to train on and {fit.seen[TEST]} to evaluate on are left, both are needed.\n"
            "Give more prompts, or raise data.limit or data.test_fraction."
        )
    if not training or not evaluation:
        side = TEST if training else TRAIN
        what = f"no prompt to {'evaluate' if training else 'train'} on has at most"
        if fit.shortest[side] > fit.room:
            raise UserError(
                f"{what} {fit.room} tokens with its instruction: for so many the model's context leaves room beside "
                f"policy.max_new_tokens={policy.max_new_tokens}.\n"
                f"Lower that (the shortest prompt has {fit.shortest[side]}), or give shorter prompts."
            )
        raise UserError(
            f"{what} policy.max_prompt_tokens={policy.max_prompt_tokens} tokens with its instruction.\n"
            f"Raise it (the shortest prompt has {fit.shortest[side]}), or give shorter prompts."
        )
    return {"training": training, "evaluation": len(evaluation)}


class _Given:
    """(train or test, prompt) of a file of prompts, which are `splits`' own by now.

    What it does not state is where the prompt's rated rows are, which a reward model learnt from or not; else it is cut by hash.
    """

    def __init__(self, prompts: Path, splits: Splits) -> None:
        self.prompts, self.splits = prompts, splits

    def __iter__(self) -> Iterator[tuple[str, Candidate]]:
        for stated, prompt in sources.prompts(self.prompts, skip):
            number = self.splits.prompts.number(prompt)
            held = stated != TRAIN if stated else self.splits.of(number) == TEST
            yield TEST if held else TRAIN, Candidate(prompt, number)


def _side(wanted: str, candidates: Iterable[tuple[str, Candidate]]) -> Iterator[Candidate]:
    """The prompts of one side, each once."""
    seen: set[int] = set()
    for side, candidate in candidates:
        if side == wanted and candidate.number not in seen:
            seen.add(candidate.number)
            yield candidate


def _untrained(candidates: Iterable[Candidate], trained: set[int], splits: Splits, dropped: Counter[str]) -> Iterator[Candidate]:
    groups = {int(splits.group[number]) for number in trained}
    for candidate in candidates:
        if candidate.number in trained:
            dropped["evaluation prompt that also occurs in training"] += 1
        elif int(splits.group[candidate.number]) in groups:
            dropped["evaluation prompt nearly the same as one in training"] += 1
        else:
            yield candidate


class _Fit:
    """Lets prompts through that have at most `longest` tokens under the longest instruction, and counts.

    `room`: tokens of the model's context that an answer leaves.
    """

    def __init__(
        self, tokenizer: Any, schema: PreferenceSchema, placement: Placement, room: int, longest: int, dropped: Counter[str]
    ) -> None:
        self.tokenizer, self.schema, self.placement, self.longest, self.dropped = tokenizer, schema, placement, longest, dropped
        # What contradicts the instruction, in training or evaluation, must have room beside it.
        self.room = max(0, room - longest_distraction(schema, self._length))
        self.instruction = longest_instruction(schema, self._length)
        self.seen: Counter[str] = Counter()
        self.shortest: dict[str, int] = {}

    def _length(self, text: str) -> int:
        return len(text_tokens(self.tokenizer, [text])[0])

    def __call__(self, candidates: Iterable[Candidate], side: str) -> Iterator[Candidate]:
        waiting = iter(candidates)
        while batch := list(islice(waiting, BATCH_PROMPTS)):
            plain = [condition(c.prompt, Targets(), self.schema, self.placement) for c in batch]
            for candidate, tokens in zip(batch, prompt_tokens(self.tokenizer, plain), strict=True):
                length = len(tokens) + self.instruction
                self.seen[side] += 1
                self.shortest[side] = min(self.shortest.get(side, length), length)
                if length > self.longest:
                    self.dropped["prompt longer than policy.max_prompt_tokens"] += 1
                elif length > self.room:
                    self.dropped["prompt longer than the model's context less policy.max_new_tokens"] += 1
                else:
                    yield candidate
