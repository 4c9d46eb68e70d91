"""Training examples for the policy: prompts under sampled targets (docs/method.md section 4)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from moslim_core.data.rows import plain_text
from moslim_core.policy.settings import PolicySettings
from moslim_core.preferences import Message, PreferenceSchema, Targets, TargetSampler, condition, held_out_pairs
from moslim_core.preferences.distractors import distracted


class Example(NamedTuple):
    """A prompt under targets: the conversation with the instruction, for the policy; the plain one as text, all that the reward model sees.

    `family`: one for all targets that a prompt is asked under at once.
    """

    prompt: list[Message]
    question: str
    targets: Targets
    family: int
    # The prompt's own turns, by which its rated answers are looked up.
    plain: Sequence[Message]


def held_out_combinations(schema: PreferenceSchema, settings: PolicySettings, seed: int) -> list[Targets]:
    """The level pairs that training never asks for."""
    return held_out_pairs(schema, settings.held_out_fraction, seed)


def training_examples(prompts: Sequence[Sequence[Message]], schema: PreferenceSchema, settings: PolicySettings, seed: int) -> list[Example]:
    """Examples under contrasting levels of preferences, both drawn evenly, held-out combinations left out (see `examples_under`)."""
    rng = random.Random(seed)
    held_out = held_out_combinations(schema, settings, seed)
    sampler = TargetSampler(schema, rng.getrandbits(32), settings.none_fraction, held_out, settings.max_preferences)
    return examples_under(sampler.contrasting, prompts, schema, settings, rng)


def examples_under(
    draw: Callable[[int], Sequence[Targets]],
    prompts: Sequence[Sequence[Message]],
    schema: PreferenceSchema,
    settings: PolicySettings,
    rng: random.Random,
) -> list[Example]:
    """steps x prompts_per_step x targets_per_prompt examples, every prompt equally often, those of one prompt together.

    `draw` gives so many targets for one prompt. A share `distractor_fraction` of the prompts that ask for something carry text that
    contradicts it (distractors.py): the policy reads it, the reward model does not, and the targets stay what they are.
    """
    examples: list[Example] = []
    distractors_owed = 0.0
    for family, prompt in enumerate(in_turn(prompts, settings, rng)):
        requests = draw(settings.targets_per_prompt)
        distractors_owed += settings.distractor_fraction
        said = prompt
        if distractors_owed >= 1 and any(requests):
            distractors_owed -= 1
            said = distracted(prompt, requests, schema, rng)
        for targets in requests:
            conversation = condition(said, targets, schema, settings.placement, rng)
            examples.append(Example(conversation, plain_text(prompt), targets, family, prompt))
    return examples


def in_turn(prompts: Sequence[Sequence[Message]], settings: PolicySettings, rng: random.Random) -> Iterator[Sequence[Message]]:
    """The prompts of all steps, one after another: in random order, every prompt equally often."""
    order: list[int] = []
    for _ in range(settings.steps * settings.prompts_per_step):
        if not order:
            order = rng.sample(range(len(prompts)), len(prompts))
        yield prompts[order.pop()]
