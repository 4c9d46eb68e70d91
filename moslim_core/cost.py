"""What a run costs, before it starts: seconds, memory and tokens of each stage, from sizes, counts and a measured speed. (ours)

A pass of a model over tokens takes 2 operations a parameter and token (Kaplan et al. 2020, section 2.1); going back through frozen
weights as much again, through weights that learn twice as much. How fast these are done is measured here, by matrix products in the
run's dtype, or stated by the maker of a GPU that is not here. Constants that are not counted so were measured on the demo, and say what
they stand for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from moslim_core.evaluation.settings import EvaluationSettings
from moslim_core.policy.settings import PolicySettings
from moslim_core.preferences import PreferenceSchema
from moslim_core.reward.settings import RewardSettings

# Tokens of an English word; of the chat template's marks and system line, and of the instruction with one preference.
TOKENS_A_WORD, TEMPLATE_TOKENS, INSTRUCTION_TOKENS = 1.35, 25, 35
# The hidden size at which a model reaches half of the speed of large matrix products; a larger model reaches more.
HALF_SPEED_HIDDEN = 530
# The most that a core is taken to do: with AMX its large products are 3.8 times as fast, but a model's passes are not.
CORE_OPERATIONS = 2.0e11
# Overhead per layer and drawn token, in seconds: Python and small operations.
LAYER_SECONDS = {"cpu": 1.5e-3, "cuda": 3e-4, "mps": 5e-4}
# A worker's start: importing torch, transformers and peft, loading weights.
START_SECONDS, START_GB = 8.0, 0.8
# Reading, grouping and writing one rated row; drawing the report's figures for one preference.
ROW_SECONDS, FIGURES_SECONDS, REPORT_SECONDS = 1e-3, 3.0, 6.0
# The flow, Prefect's server and the ledger, beside the stage that works.
SERVERS_GB = 1.0
# Of 16-bit activations a layer keeps about 34 bytes a token and hidden unit (Korthikanti et al. 2022, section 4.1); with adapters on all
# linear maps twice as many were measured.
ACTIVATION_BYTES, KEPT_BY_CHECKPOINTING = 34 * 2, 0.2

# Passes that supervised learning of an adapter takes: there, back through frozen weights, and the adapter's own.
SUPERVISED = 3

# Of a measurement of the machine's speed.
BURSTS, BURST_SECONDS = 6, 0.1


class Size(NamedTuple):
    """Of a model: parameters, of these the input embeddings (which no product takes), layers, hidden size, width of keys and values."""

    parameters: int
    embeddings: int
    layers: int
    hidden: int
    keys: int


class Speed(NamedTuple):
    """Of this machine in the run's dtype: products a second (2 operations each), bytes read a second, where it was measured."""

    operations: float
    bandwidth: float
    device: str
    bytes: int


class Card(NamedTuple):
    """A GPU as its maker states it: operations a second in bfloat16 without sparsity, bytes read a second, GB of memory."""

    operations: float
    bandwidth: float
    memory_gb: float


# Of the makers' data sheets.
CARDS = {
    "l4": Card(1.21e14, 3.0e11, 24),
    "a10g": Card(7.0e13, 6.0e11, 24),
    "rtx-4090": Card(1.65e14, 1.0e12, 24),
    "a100-80": Card(3.12e14, 2.0e12, 80),
    "h100": Card(9.89e14, 3.35e12, 80),
    "h200": Card(9.89e14, 4.8e12, 141),
}
# Of what makers state, products of a common size reach about so much. (ours, a guess)
REACHED = 0.5


class Counts(NamedTuple):
    """Of the data: rows by split, training and evaluation prompts, mean words of prompts and answers."""

    rows: dict[str, int]
    training_prompts: int
    evaluation_prompts: int
    prompt_words: float
    answer_words: float


class Cost(NamedTuple):
    """Of a stage. `drawn`: tokens that a model writes; `read`: tokens that pass through one, each pass counted."""

    seconds: float
    memory_gb: float
    drawn: int = 0
    read: int = 0


def stated_speed(card: Card) -> Speed:
    """The speed of a GPU that is not here, in bfloat16."""
    return Speed(REACHED * card.operations, REACHED * card.bandwidth, "cuda", 2)


def measured_speed(device: str, dtype: Any) -> Speed:
    """The speed of one core times their number, or of the GPU: a fraction of a second. What else uses the cores now does not count."""
    import torch

    width = 2048 if device == "cuda" else 768
    left, right = (torch.ones(width, width, dtype=dtype, device=device) for _ in range(2))
    large = torch.ones(8 * 1024 * 1024, dtype=torch.float32, device=device)
    threads = torch.get_num_threads()
    clock = time.process_time if device == "cpu" else time.perf_counter
    try:
        torch.set_num_threads(1)
        product = _shortest(lambda: left @ right, clock, device)
        reading = _shortest(large.sum, clock, device)
    finally:
        torch.set_num_threads(threads)
    operations = 2 * width**3 / product
    if device == "cpu":
        operations = min(operations, CORE_OPERATIONS) * (os.cpu_count() or 1)
    return Speed(operations, 4 * large.numel() / reading, device, torch.empty((), dtype=dtype).element_size())


def _shortest(work: Callable[[], Any], clock: Callable[[], float], device: str) -> float:
    """Seconds of the fastest try: bursts with pauses, as another program may have the machine in one of them."""
    import torch

    shortest = float("inf")
    for _ in range(BURSTS):
        until = time.monotonic() + BURST_SECONDS
        while time.monotonic() < until:
            start = clock()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            shortest = min(shortest, clock() - start or shortest)
        time.sleep(BURST_SECONDS / 2)
    return shortest


def pass_seconds(size: Size, tokens: float, speed: Speed) -> float:
    """One forward pass over so many tokens."""
    share = size.hidden / (size.hidden + HALF_SPEED_HIDDEN)
    return 2 * size.parameters * tokens / (speed.operations * share)


def draw_seconds(size: Size, answers: float, prompt: float, longest: float, batch: int, speed: Speed) -> float:
    """Drawing so many answers: the prompts are read, then each step of a batch writes a token to each, as long as the longest lasts."""
    if not answers:
        return 0.0
    batches = answers / min(batch, answers)
    step = LAYER_SECONDS[speed.device] * size.layers + size.parameters * speed.bytes / speed.bandwidth
    return pass_seconds(size, answers * prompt, speed) + batches * longest * step + pass_seconds(size, answers * longest, speed)


def _kept_to_draw(size: Size, answers: float, length: float, speed: Speed) -> float:
    """Bytes of keys and values of answers that are drawn together, each of so many tokens with its prompt."""
    return answers * length * size.layers * 2 * size.keys * speed.bytes


def _activations(tokens: float, layers: int, size: Size, speed: Speed, checkpointing: bool) -> float:
    """Bytes that a pass over so many tokens keeps for the way back."""
    return tokens * layers * size.hidden * ACTIVATION_BYTES * speed.bytes / 2 * (KEPT_BY_CHECKPOINTING if checkpointing else 1.0)


def label_cost(counts: Counts) -> Cost:
    """Of the stage `label`: it reads rows, and no model."""
    return Cost(START_SECONDS / 2 + ROW_SECONDS * sum(counts.rows.values()), START_GB / 2)


def reward_cost(reward: RewardSettings, size: Size, counts: Counts, split: str, speed: Speed) -> Cost:
    """The reward model, or the judge where `split` is its."""
    parameters = float(size.parameters - size.embeddings)
    layers = size.layers
    if reward.layers is not None:
        parameters, layers = parameters * min(1.0, reward.layers / size.layers), min(reward.layers, size.layers)
    length = min(reward.max_length, (counts.prompt_words + counts.answer_words) * TOKENS_A_WORD + 3)
    # Rows of choices hold two answers; that is not counted here.
    learnt = counts.rows.get(split, 0) * reward.epochs
    held = counts.rows.get("validation", 0) + counts.rows.get("test", 0)
    passes = 1 + {"full": 2, "lora": 1, "frozen": 0}[reward.tuning] + reward.gradient_checkpointing
    read = length * (passes * learnt + held)
    work = pass_seconds(size._replace(parameters=round(parameters)), read, speed)
    changed = size.embeddings + parameters if reward.tuning == "full" else 0.01 * parameters
    # AdamW reads and writes weight, gradient and two moments; each update does so for all that learns.
    updating = learnt / reward.batch_size * changed * 4 * 7 / speed.bandwidth
    models = 1 if reward.shared else 2
    activations = _activations(reward.batch_size * length, layers, size, speed, reward.gradient_checkpointing)
    # Weights are in float32, whatever the passes compute in.
    memory = START_GB + (4 * (size.embeddings + parameters) + 12 * changed + activations) / 1e9
    return Cost(START_SECONDS + models * (work + updating), memory, read=round(models * read))


def policy_cost(policy: PolicySettings, size: Size, judge: Size, counts: Counts, speed: Speed) -> Cost:
    """Reinforcement learning: drawing, scoring, reading under policy and starting policy, updating; a warm start before it."""
    prompt = TEMPLATE_TOKENS + counts.prompt_words * TOKENS_A_WORD + INSTRUCTION_TOKENS
    prompt = min(prompt, policy.max_prompt_tokens)
    # Of answers that are drawn some end early; in a batch that makes no step shorter. Rated ones are as long as the data has them.
    rated = min(policy.max_new_tokens, counts.answer_words * TOKENS_A_WORD)
    answer = policy.rated_answers * rated + (1 - policy.rated_answers) * max(0.65 * policy.max_new_tokens, rated)
    requests = policy.prompts_per_step * policy.targets_per_prompt
    answers = requests * policy.group_size
    drawn = answers * (1 - policy.rated_answers)
    contrasted = max(2 * policy.prompts_per_step, answers * policy.contrast)
    rows = contrasted * (policy.targets_per_prompt if policy.relabel else 1)
    # A prompt stands once before all its answers.
    tokens = requests * prompt + rows * answer
    # The first update takes the pass that says how probable the answers were; the way back through frozen weights is a pass.
    passes = (1 if policy.beta else 0) + 2 * policy.epochs + (1 if policy.gradient_checkpointing else 0) * policy.epochs
    critic = policy.optimiser == "ppo"
    seconds = (
        draw_seconds(size, drawn, prompt, policy.max_new_tokens, max(1, round(drawn)), speed)
        + pass_seconds(judge, answers * (counts.prompt_words * TOKENS_A_WORD + answer), speed)
        + passes * pass_seconds(size, tokens, speed) * (1.1 if critic else 1.0)
    )
    warm = SUPERVISED * counts.rows.get("train", 0) * policy.sft.epochs * (prompt + rated) if policy.warm_start != "none" else 0.0
    total = START_SECONDS * 1.5 + (pass_seconds(size, warm, speed) + policy.steps * seconds) / policy.processes
    if policy.max_minutes is not None:
        total = min(total, START_SECONDS * 1.5 + 60 * policy.max_minutes)
    share = min(1.0, policy.micro_batch / rows)
    activations = _activations(share * tokens, size.layers, size, speed, policy.gradient_checkpointing)
    # Answers are drawn by a copy of the weights with the adapter in them. What drawing keeps is gone when learning begins.
    kept = max(activations, _kept_to_draw(size, drawn, prompt + policy.max_new_tokens, speed))
    memory = START_GB + ((2 * size.parameters + judge.parameters) * speed.bytes + kept) / 1e9
    return Cost(total, memory * policy.processes, round(policy.steps * drawn * answer), round(warm + policy.steps * passes * tokens))


def evaluation_answers(evaluation: EvaluationSettings, schema: PreferenceSchema, prompts: int) -> int:
    """Answers of one system: each level alone, several preferences together, contradicted, and at the front's points."""
    levels = sum(len(p.requestable) for p in schema.preferences)
    front = evaluation.operating_points if sum(not p.is_guard for p in schema.preferences) > 1 else 0
    attacked = min(evaluation.attack_prompts, prompts) * 2 * 2 * len(schema)
    return prompts * (levels + _requests_together(evaluation, schema) + front) + attacked


def _requests_together(evaluation: EvaluationSettings, schema: PreferenceSchema) -> int:
    """Requests of a prompt for two and for three preferences at once."""
    return evaluation.together * max(0, min(3, sum(not p.is_guard for p in schema.preferences)) - 1)


def evaluation_cost(
    settings: EvaluationSettings, policy: PolicySettings, schema: PreferenceSchema, size: Size, counts: Counts, speed: Speed
) -> Cost:
    """Control of the starting model and of the policy; public benchmarks are not counted."""
    prompt = TEMPLATE_TOKENS + counts.prompt_words * TOKENS_A_WORD + INSTRUCTION_TOKENS
    answers = 2 * evaluation_answers(settings, schema, counts.evaluation_prompts)
    longest = policy.max_new_tokens
    batch = min(settings.batch_size, answers)
    kv_cache = _kept_to_draw(size, batch, prompt + longest, speed)
    read = batch * prompt * size.hidden * 16 * speed.bytes
    memory = START_GB + (size.parameters * speed.bytes + kv_cache + read) / 1e9
    seconds = START_SECONDS + draw_seconds(size, answers, prompt, longest, settings.batch_size, speed)
    return Cost(seconds, memory, round(answers * longest * 0.8), round(answers * prompt))


class Trained(NamedTuple):
    """What of a compared system decides its cost. `supervised`: it learns from the rated answers too; `levels`: it is asked for each level
    by itself; `rows`: answers it gives to each request, a row each; `chosen_from`: how many are drawn for each that it gives;
    `fine_points`: so many more points it is looked at to find levels among."""

    trained: bool
    supervised: bool
    levels: bool
    rows: int
    chosen_from: int
    fine_points: int


def compared_cost(
    of: Trained,
    policy: PolicySettings,
    evaluation: EvaluationSettings,
    schema: PreferenceSchema,
    size: Size,
    judge: Size,
    counts: Counts,
    speed: Speed,
) -> Cost:
    """A compared system: its training within the budget of answers, and answers at all operating points."""
    prompt = TEMPLATE_TOKENS + counts.prompt_words * TOKENS_A_WORD + INSTRUCTION_TOKENS
    training = policy_cost(policy, size, judge, counts, speed)
    seconds, read = START_SECONDS, 0
    if of.supervised:
        budget = policy.steps * policy.prompts_per_step * policy.targets_per_prompt * policy.group_size
        # Both learn twice: from the rated answers, and from what was drawn.
        learnt = counts.rows.get("train", 0) * policy.sft.epochs + budget
        read = round(SUPERVISED * learnt * (prompt + counts.answer_words * TOKENS_A_WORD))
        seconds += draw_seconds(size, budget, prompt, policy.max_new_tokens, policy.micro_batch, speed) + pass_seconds(size, read, speed)
    elif of.trained:
        seconds, read = training.seconds, training.read
    alone = sum(len(p.requestable) for p in schema.preferences)
    levels = alone + _requests_together(evaluation, schema) if of.levels else 0
    # A trained method also answers as many training prompts, by which its map of levels and its learning rate are chosen.
    points = evaluation.operating_points * (2 if of.trained else 1) + of.fine_points + min(of.fine_points, alone)
    answers = counts.evaluation_prompts * (of.rows * points + levels) * of.chosen_from
    seconds += draw_seconds(size, answers, prompt, policy.max_new_tokens, evaluation.batch_size, speed)
    memory = training.memory_gb if of.trained else START_GB + size.parameters * speed.bytes / 1e9
    return Cost(seconds, memory, round(answers * policy.max_new_tokens * 0.8), read)


def report_cost(schema: PreferenceSchema) -> Cost:
    """Of the stage `report`: figures, a few for each preference."""
    return Cost(REPORT_SECONDS + FIGURES_SECONDS * len(schema), START_GB / 2)
