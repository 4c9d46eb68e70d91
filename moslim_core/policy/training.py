"""The policy stage's work: a chat model, prompts and a reward model -> one policy that follows preferences stated in the prompt.

A step: prompts under targets -> an engine draws -> all heads score, once -> a RolloutBatch -> the optimiser's loss -> updates. The
reference is the policy at step 0: the base, after a warm start if there is one, with its adapter off.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import set_seed

from moslim_core import models
from moslim_core.data.rows import load_prompts
from moslim_core.models.identity import ModelId, content_digest, identify
from moslim_core.policy import engines
from moslim_core.policy.artifact import BASE, PolicyCard, save_policy
from moslim_core.policy.conditioning import Example, training_examples
from moslim_core.policy.contrast import most_different
from moslim_core.policy.generation import Sampling, generate
from moslim_core.policy.learner import Learner, share_of_rate
from moslim_core.policy.optimisers import Optimiser, optimiser_class, require_fit
from moslim_core.policy.rated_answers import RatedAnswers
from moslim_core.policy.reader import Reader
from moslim_core.policy.rewards import Rewards
from moslim_core.policy.rollouts import pair
from moslim_core.policy.settings import PolicySettings, refuse_sharded
from moslim_core.policy.shared_base import attach, base_of, load_heads
from moslim_core.policy.steps import Steps, learn
from moslim_core.policy.training_log import TrainingLog
from moslim_core.preferences import Message, PreferenceSchema, prompt_tokens
from moslim_core.reward.mapping import RewardMapping
from moslim_core.reward.scorer import RewardScorer
from moslim_core.sampling import generation_config
from moslim_core.settings import Settings
from moslim_core.training.checkpoints import keep_last, last_complete, mark
from moslim_core.training.distributed import gather, is_first, join, sharded, share, take_own_device, wait
from moslim_core.training.progress import Progress

REFERENCE_ROLLOUTS = 128
WARM_START = "warm_start"
# Prompts, preferences, policy settings, seed -> what the optimiser's prompts ask for.
Examples = Callable[[Sequence[Sequence[Message]], PreferenceSchema, PolicySettings, int], list[Example]]


def train(
    settings: Settings,
    data: Path,
    reward_model: Path,
    cache: Path,
    checkpoints: Path,
    output: Path,
    progress: Progress,
    examples_of: Examples = training_examples,
    optimiser_of: type[Optimiser] | None = None,
    learner_of: Callable[..., Learner] = Learner,
) -> None:
    """Train on the prompts of a folder of the label stage with the reward model of another; save the policy in `output`.

    Goes on from the last checkpoint in `checkpoints`. Compared systems ask in their own ways and may bring an optimiser or a learner.
    Raises UserError where settings do not go together, or sharded weights can't be trained so. One function: it reads as a run goes.
    """
    policy, schema, seed = settings.policy, settings.preferences, settings.seed
    base, start = settings.model.base, identify(settings.model.base, cache).id
    shared = policy.warm_start == "none" and base_of(reward_model) == start.digest
    require_fit(policy)
    if sharded():
        refuse_sharded(policy, shared)
    take_own_device()
    if policy.warm_start == "conditioned_sft":
        # It alone needs TRL and datasets, which take seconds to load.
        from moslim_core.policy.warm_start import conditioned_sft

        conditioned_sft(settings, data / "train.jsonl", cache, checkpoints / WARM_START, output / BASE, progress)
        base = str(output / BASE)
        start = ModelId(name=BASE, digest=content_digest(output / BASE, cache))

    set_seed(seed)
    model, tokenizer = models.load_chat_model(base, cache, settings.model.dtype, settings.model.device)
    join(model.device.type)
    ends = models.end_tokens(model, tokenizer)
    prompts = load_prompts(data / "prompts.train.jsonl")
    rated = RatedAnswers(data / "train.jsonl", tokenizer, ends, policy.max_new_tokens) if policy.rated_answers else None
    examples = examples_of(rated.prompts(prompts) if rated and policy.rated_answers == 1 else prompts, schema, policy, seed)
    last = last_complete(checkpoints)
    mapping = RewardMapping(schema, settings.mapping, gather)
    wanted = REFERENCE_ROLLOUTS if settings.mapping.standardisation == "reference" and last is None else 0
    measured = [examples[n % len(examples)] for n in range(wanted)][share(wanted)]
    plain = generate(model, tokenizer, [e.prompt for e in measured], Sampling(policy.max_new_tokens, policy.temperature), seed)
    optimiser = (optimiser_of or optimiser_class(policy.optimiser))(policy, mapping)
    learner = learner_of(model, policy, optimiser.critic)
    if shared:
        scorer, backbone = load_heads(reward_model, str(learner.device))
        attach(backbone, learner.model, reward_model)
    else:
        scorer = RewardScorer.load(reward_model, str(learner.device))
    if measured:
        mapping.fit_reference(scorer([e.question for e in measured], [a.text for a in plain]), [e.targets for e in measured])
    drawing = generation_config(ends, tokenizer.pad_token_id, policy.temperature, max_new_tokens=policy.max_new_tokens)
    engine, said = engines.pick(learner, policy, drawing)
    if said is not None:
        logging.getLogger(__name__).warning(said)
    steps = Steps(policy, engine, Rewards(scorer, mapping, policy, cache, learner.device), Reader(tokenizer, ends), rated)

    done, log = 0, TrainingLog(progress, policy.steps)
    if last is not None:
        folder, state = last
        learner.load(folder)
        steps.rewards.load_state(state["rewards"])
        optimiser.load_state(state["optimiser"])
        done, log = state["step"], TrainingLog(progress, policy.steps, state["seconds"], state["history"])
    progress.update("training the policy", done, policy.steps)
    while done < policy.steps and not (done and log.is_over(policy.max_minutes)):
        mine = share(policy.prompts_per_step)
        families = range(done * policy.prompts_per_step + mine.start, done * policy.prompts_per_step + mine.stop)
        step_examples = examples[families.start * policy.targets_per_prompt : families.stop * policy.targets_per_prompt]
        with log.phase("rollout"):
            ids = prompt_tokens(tokenizer, [e.prompt for e in step_examples])
            rollouts, drawn_with = steps.draw(step_examples, ids, seed)
        with log.phase("reward"):
            pairs = pair(step_examples, rollouts, policy.relabel)
            rewards, utilities, figures = steps.judge(step_examples, rollouts, pairs)
            if policy.contrast < 1:
                pairs, remaining = most_different(pairs, rewards, policy.contrast)
                rewards, utilities = rewards[remaining], utilities[remaining]
        with log.phase("update"):
            batch, passed, more = steps.batch(learner, step_examples, ids, rollouts, drawn_with, pairs, rewards, utilities, optimiser)
            updated = learn(learner, optimiser, batch, passed, share_of_rate(done, policy))
        done += 1
        if done > policy.steps - policy.average_steps:
            learner.count_in()
        log.step(done, figures | more | updated, sum(r.request is not None for r in rollouts))
        if done % policy.checkpoint_every == 0 or done == policy.steps:
            folder = checkpoints / f"checkpoint-{done}"
            learner.save(folder, is_first())
            wait()
            if is_first():
                mark(folder, {"step": done, "rewards": steps.rewards.state(), "optimiser": optimiser.state(), **log.state()})
                keep_last(checkpoints, 2)

    card, adapter = PolicyCard.of(settings, start, done, mapping.state()), learner.adapter()
    if is_first():
        save_policy(output, learner.plain, adapter, tokenizer, card, log.history)
    wait()
